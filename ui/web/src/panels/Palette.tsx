/** What can be added: drag it onto the canvas, double-click it, or press Enter. */
import { useMemo, useRef, useState, type DragEvent, type KeyboardEvent, type ReactNode } from "react";

import type { PaletteEntry } from "../protocol";
import { useCanvas } from "../store";
import { Icon } from "./icons";
import { arrange, useLayout } from "./layout";
import { groupColour } from "./parts";
import { insertion } from "./placement";
import { SearchBox } from "./SearchBox";

interface Group {
  id: string;
  label: string;
  entries: PaletteEntry[];
}

/** Whether all words are somewhere in the texts. */
export function matches(query: string, ...texts: string[]): boolean {
  const text = texts.join(" ").toLowerCase();
  return query.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function grouped(entries: PaletteEntry[], groups: { path: string; label: string }[]): Group[] {
  const labels = new Map(groups.map((group) => [group.path, group.label]));
  for (const entry of entries) if (!labels.has(entry.group)) labels.set(entry.group, entry.group);
  const all = [...labels].map(([id, label]) => ({ id, label, entries: entries.filter((entry) => entry.group === id) }));
  return all.filter((group) => group.entries.length);
}

const add = (what: string) => {
  const state = useCanvas.getState();
  void state.send(insertion(state, what));
};

export function Palette(): ReactNode {
  const palette = useCanvas((state) => state.palette);
  const groups = useCanvas((state) => state.catalogue?.groups);
  const folded = useLayout((state) => state.folded);
  const [query, setQuery] = useState("");
  const [active, setActive] = useState("");
  const list = useRef<HTMLDivElement>(null);
  const shown = useMemo(() => {
    const found = query.trim() ? palette.filter((entry) => matches(query.trim(), entry.title, entry.id, entry.summary)) : palette;
    return grouped(found, groups ?? []);
  }, [palette, groups, query]);
  const isFolded = (group: Group) => !query.trim() && folded.includes(group.id);
  const visible = shown.filter((group) => !isFolded(group)).flatMap((group) => group.entries);
  const tabStop = visible.some((entry) => entry.id === active) ? active : visible[0]?.id;

  function focus(index: number): void {
    const entry = visible[Math.max(0, Math.min(visible.length - 1, index))];
    if (!entry) return;
    setActive(entry.id);
    list.current?.querySelector<HTMLElement>(`[data-entry="${CSS.escape(entry.id)}"]`)?.focus();
  }

  function walk(event: KeyboardEvent, entry: PaletteEntry): void {
    const index = visible.indexOf(entry);
    const to: Record<string, number> = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: visible.length - 1 };
    if (event.key in to) focus(to[event.key]!);
    else if (event.key === "Enter" || event.key === " ") add(entry.id);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  return (
    <>
      <SearchBox label="Search the palette" value={query} onChange={setQuery} onDown={() => focus(0)} onEnter={() => visible[0] && add(visible[0].id)} />
      <div className="cv-scroll cp-palette" ref={list}>
        {shown.map((group) => (
          <section key={group.id} aria-label={group.label}>
            <button
              type="button" className="cp-fold" aria-expanded={!isFolded(group)} disabled={query.trim() !== ""}
              onClick={() => arrange({ folded: isFolded(group) ? folded.filter((id) => id !== group.id) : [...folded, group.id] })}
            >
              <Icon name="down" size={12} />
              <span>{group.label}</span>
              <small>{group.entries.length}</small>
            </button>
            {!isFolded(group) && group.entries.map((entry) => (
              <Entry key={entry.id} entry={entry} tabStop={entry.id === tabStop} onFocus={() => setActive(entry.id)} onKey={walk} />
            ))}
          </section>
        ))}
        {!shown.length && <p className="cp-empty">{palette.length ? `Nothing is called “${query.trim()}”.` : "Loading…"}</p>}
      </div>
    </>
  );
}

interface EntryProps {
  entry: PaletteEntry;
  tabStop: boolean;
  onFocus(): void;
  onKey(event: KeyboardEvent, entry: PaletteEntry): void;
}

/** Not a <button>: Firefox does not drag those. */
function Entry({ entry, tabStop, onFocus, onKey }: EntryProps): ReactNode {
  function drag(event: DragEvent): void {
    event.dataTransfer.setData("application/x-canvas-entry", entry.id);
    event.dataTransfer.setData("text/plain", entry.id);
    event.dataTransfer.effectAllowed = "copy";
  }
  return (
    <div
      className="cp-entry" role="button" tabIndex={tabStop ? 0 : -1} draggable data-entry={entry.id} data-testid={`palette-${entry.id}`}
      title={[entry.summary, entry.paper].filter(Boolean).join("\n")} style={{ "--group": groupColour(entry.group) } as React.CSSProperties}
      onDragStart={drag} onFocus={onFocus} onKeyDown={(event) => onKey(event, entry)}
      onDoubleClick={() => add(entry.id)}
      onClick={(event) => event.detail === 0 && add(entry.id)} // pressed by a screen reader, not by a mouse
    >
      <i className="cp-dot" />
      <div>
        <b>{entry.title}</b>
        <span>{entry.summary}</span>
      </div>
    </div>
  );
}
