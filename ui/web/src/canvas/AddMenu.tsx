/** The menu that adds a node: free, on a wire, or at a port, where it lists what fits, and the nodes that are there. */
import { useEffect, useId, useLayoutEffect, useMemo, useRef, useState, type KeyboardEvent, type ReactNode } from "react";

import type { Port } from "../protocol";
import { useCanvas, type AddMenu as Menu, type State } from "../store";
import { focusCanvas } from "./focus";
import { useView } from "./view";

interface Entry {
  key: string;
  title: string;
  summary: string;
  group: string;
  what: string | null;
  existing: Port | null;
}

interface Section {
  title: string;
  entries: Entry[];
}

export function AddMenu(): ReactNode {
  const menu = useCanvas((state) => state.menu);
  // A menu that was opened anew begins anew.
  return menu ? <OpenMenu key={`${menu.screen.x} ${menu.screen.y} ${menu.end?.path} ${menu.end?.port}`} menu={menu} /> : null;
}

function OpenMenu({ menu }: { menu: Menu }): ReactNode {
  const palette = useCanvas((state) => state.palette);
  const groups = useCanvas((state) => state.catalogue?.groups);
  const existingFirst = useView((state) => state.existingFirst);
  const [text, setText] = useState("");
  const [active, setActive] = useState(0);
  const box = useRef<HTMLDivElement>(null);
  const list = useRef<HTMLDivElement>(null);
  const id = useId();
  const waiting = menu.end !== null && menu.offers === null;

  const sections = useMemo(() => {
    const all = menu.end ? (menu.offers ?? []).map(offered) : palette.map(listed);
    return sorted(all, text, groups ?? [], existingFirst, menu.side === "source");
  }, [menu.end, menu.side, menu.offers, palette, groups, text, existingFirst]);
  const flat = sections.flatMap((section) => section.entries);
  const chosen = Math.min(active, flat.length - 1);

  useClamped(box, menu);
  useEffect(() => {
    const outside = (event: PointerEvent) => {
      if (!box.current?.contains(event.target as globalThis.Node)) close(false);
    };
    window.addEventListener("pointerdown", outside, true);
    return () => window.removeEventListener("pointerdown", outside, true);
  }, []);
  useEffect(() => {
    list.current?.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
  }, [chosen]);

  function key(event: KeyboardEvent): void {
    event.stopPropagation();
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
    if (move) setActive(Math.abs(move) === 1 ? (chosen + move + flat.length) % Math.max(flat.length, 1) : Math.min(Math.max(chosen + move, 0), flat.length - 1));
    else if (event.key === "Home" && !text) setActive(0);
    else if (event.key === "End" && !text) setActive(flat.length - 1);
    else if (event.key === "Enter") {
      if (flat[chosen]) choose(menu, flat[chosen]);
    } else if (event.key === "Escape" || event.key === "Tab") close(true);
    else return;
    event.preventDefault();
  }

  return (
    <div className="cn-menu nowheel nokey" ref={box} role="dialog" aria-label={headline(menu)} data-testid="add-menu" onKeyDown={key} onContextMenu={(event) => event.preventDefault()}>
      <div className="cn-menu-head">{headline(menu)}</div>
      <input
        className="cv-input cn-menu-search" autoFocus type="text" placeholder="Search" spellCheck={false} autoComplete="off" value={text}
        role="combobox" aria-expanded="true" aria-controls={`${id}-list`} aria-activedescendant={flat[chosen] ? `${id}-${chosen}` : undefined}
        aria-label="Search what can be added" onChange={(event) => { setText(event.target.value); setActive(0); }}
      />
      <div className="cn-menu-list cv-scroll" ref={list} id={`${id}-list`} role="listbox" aria-label="What can be added" tabIndex={-1}>
        {waiting && <p className="cn-menu-note">Looking for what fits…</p>}
        {!waiting && !flat.length && <p className="cn-menu-note">{text ? `Nothing is called “${text}”.` : "Nothing fits this port."}</p>}
        {sections.map((section) => (
          <div key={section.title} role="group" aria-label={section.title}>
            <div className="cn-menu-group" aria-hidden="true">{section.title}</div>
            {section.entries.map((entry) => {
              const index = flat.indexOf(entry);
              return (
                <div
                  key={entry.key} id={`${id}-${index}`} role="option" aria-selected={index === chosen} className="cn-menu-entry"
                  style={{ "--g": `var(--g-${entry.group}, var(--g-block))` } as React.CSSProperties} data-what={entry.what ?? ""}
                  onPointerMove={() => index !== chosen && setActive(index)} onClick={() => choose(menu, entry)}
                >
                  <i />
                  <b>{entry.title}</b>
                  <span title={entry.summary}>{entry.summary}</span>
                </div>
              );
            })}
          </div>
        ))}
      </div>
      <div className="cn-menu-foot" aria-hidden="true"><kbd>↑</kbd><kbd>↓</kbd> choose <kbd>Enter</kbd> add <kbd>Esc</kbd> close</div>
    </div>
  );
}

const offered = (offer: NonNullable<Menu["offers"]>[number]): Entry => ({
  key: offer.what ?? `${offer.existing?.path} ${offer.existing?.port}`, title: offer.title, summary: offer.summary, group: offer.group,
  what: offer.what ?? null, existing: offer.existing ?? null,
});

const listed = (entry: State["palette"][number]): Entry => ({ key: entry.id, title: entry.title, summary: entry.summary, group: entry.group, what: entry.id, existing: null });

const EXISTING = "Nodes that are there";
const LIKELY = "What mostly follows";
const SUGGESTED = 4;

/** In groups, as the palette has them; while one searches, what fits best comes first. */
function sorted(entries: Entry[], text: string, groups: { path: string; label: string }[], existingFirst: boolean, suggest: boolean): Section[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const ranked = entries.map((entry) => ({ entry, rank: rank(entry, words) })).filter(({ rank }) => rank < Infinity);
  if (words.length) ranked.sort((a, b) => a.rank - b.rank);
  const sections = new Map<string, Entry[]>();
  // The server names what mostly follows first.
  const likely = words.length || !suggest ? [] : entries.filter((entry) => !entry.existing).slice(0, SUGGESTED);
  if (likely.length) sections.set(LIKELY, likely.map((entry) => ({ ...entry, key: `likely ${entry.key}` })));
  const title = (entry: Entry) => (entry.existing ? EXISTING : (groups.find(({ path }) => path === entry.group)?.label ?? "Other"));
  for (const { entry } of ranked) {
    const name = title(entry);
    sections.set(name, [...(sections.get(name) ?? []), entry]);
  }
  const names = [...sections.keys()];
  if (!words.length) {
    const order = groups.map(({ label }) => label);
    const place = (name: string) => (name === LIKELY ? -1 : name === EXISTING ? (existingFirst ? -2 : 1000) : order.includes(name) ? order.indexOf(name) : 999);
    names.sort((a, b) => place(a) - place(b));
  }
  return names.map((name) => ({ title: name, entries: sections.get(name)! }));
}

function rank({ title, summary, what }: Entry, words: string[]): number {
  let sum = 0;
  for (const word of words) {
    const at = title.toLowerCase().indexOf(word);
    if (at === 0) continue;
    else if (at > 0) sum += 1;
    else if (what?.toLowerCase().includes(word)) sum += 2;
    else if (summary.toLowerCase().includes(word)) sum += 4;
    else return Infinity;
  }
  return sum;
}

function headline({ end, side, wire, frame }: Menu): string {
  const { nodes, path, block } = useCanvas.getState();
  const name = (port: Port) => `${nodes.get(port.path)?.id ?? port.path}`;
  if (end && side === "source") return `Connect from ${name(end)} · ${end.port} to …`;
  if (end) return `Feed ${name(end)} · ${end.port} from …`;
  if (wire) return `Put on the wire to ${name(wire)} · ${wire.port}`;
  return `Add to ${frame === path ? block || "this level" : (nodes.get(frame)?.id ?? frame)}`;
}

function choose(menu: Menu, { what, existing }: Entry): void {
  const { send } = useCanvas.getState();
  const { menuHere } = useView.getState();
  close(true);
  const { end, side, wire, frame, position } = menu;
  if (existing && end) {
    void send({ type: "connect", ...(side === "source" ? { source: end, target: existing } : { source: existing, target: end }) });
    return;
  }
  if (!what) return;
  void send({
    type: "insert", what, path: frame, wire, source: side === "source" ? end : null, target: side === "target" ? end : null,
    position: menuHere && !wire ? position : null,
  });
}

function close(back: boolean): void {
  useCanvas.setState({ menu: null });
  if (back) focusCanvas();
}

/** Keep the menu within the canvas. */
function useClamped(box: React.RefObject<HTMLDivElement | null>, menu: Menu): void {
  useLayoutEffect(() => {
    const element = box.current;
    const around = element?.parentElement?.getBoundingClientRect();
    if (!element || !around) return;
    const { offsetWidth, offsetHeight } = element;
    const x = Math.max(8, Math.min(menu.screen.x - around.left, around.width - offsetWidth - 8));
    const y = Math.max(8, Math.min(menu.screen.y - around.top, around.height - offsetHeight - 8));
    element.style.left = `${x}px`;
    element.style.top = `${y}px`;
  }, [box, menu.screen]);
}
