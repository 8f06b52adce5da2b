/** Find a node anywhere in the model, inside blocks too. */
import { useEffect, useId, useRef, useState, type ReactNode } from "react";

import type { Hit } from "../protocol";
import { useCanvas } from "../store";
import { Dialog } from "./Dialog";
import { plural } from "./numbers";
import { SearchBox } from "./SearchBox";

/** The hits for a text, asked for when typing pauses; null: none were asked for. */
function useHits(text: string): Hit[] | null {
  const [hits, setHits] = useState<Hit[] | null>(null);
  const asked = useRef("");
  useEffect(() => {
    const query = text.trim();
    asked.current = query;
    if (!query) return setHits(null);
    const timer = setTimeout(async () => {
      const reply = await useCanvas.getState().send({ type: "find", text: query.slice(0, 200) });
      if (asked.current === query) setHits(reply.hits ?? []);
    }, 120);
    return () => clearTimeout(timer);
  }, [text]);
  return hits;
}

export function FindDialog({ onClose }: { onClose(): void }): ReactNode {
  const [text, setText] = useState("");
  const [active, setActive] = useState(0);
  const hits = useHits(text);
  const id = useId();
  const list = useRef<HTMLUListElement>(null);
  const at = Math.min(active, (hits?.length ?? 0) - 1);

  useEffect(() => setActive(0), [hits]);
  useEffect(() => {
    // Newer browsers return a promise, which an effect must not.
    void list.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }, [at]);

  function go(hit: Hit | undefined): void {
    if (!hit) return;
    onClose();
    // The way on is from the node that was found, not from the button that opened this.
    setTimeout(() => document.querySelector<HTMLElement>(".cp-toolbar :focus")?.blur());
    void useCanvas.getState().reveal(hit.level, hit.path);
  }
  const move = (by: number) => hits?.length && setActive((at + by + hits.length) % hits.length);

  return (
    <Dialog title="Find a node" className="cp-find" onClose={onClose}>
      <SearchBox
        label="Name, kind or setting" value={text} onChange={setText} onDown={() => move(1)} onUp={() => move(-1)} onEnter={() => go(hits?.[at])}
        listbox={{ id: `${id}-list`, active: hits?.length ? `${id}-${at}` : undefined, open: (hits?.length ?? 0) > 0 }}
      />
      <ul id={`${id}-list`} className="cv-scroll cp-hits" role="listbox" aria-label="Nodes found" ref={list}>
        {hits?.map((hit, index) => (
          <li
            key={`${hit.level} ${hit.path}`} id={`${id}-${index}`} role="option" aria-selected={index === at}
            onPointerMove={() => setActive(index)} onClick={() => go(hit)}
          >
            <b>{hit.path.split(".").at(-1) || "model"}</b>
            <em>{hit.title}</em>
            <span>{[hit.path, hit.detail].filter(Boolean).join("  ·  ")}</span>
          </li>
        ))}
      </ul>
      <p className="cp-hint" role="status">
        {hits === null ? "Searches the whole model, inside blocks too." : hits.length ? `${plural(hits.length, "node")}. Enter goes there.` : `Nothing is called “${text.trim()}”.`}
      </p>
    </Dialog>
  );
}
