/** Open another document: a model of the zoo, a file, or a fresh start. */
import { useEffect, useMemo, useRef, useState, type DragEvent, type ReactNode } from "react";

import type { Failure, Open } from "../protocol";
import { useCanvas } from "../store";
import { Dialog } from "./Dialog";
import { Icon } from "./icons";
import { count, plural } from "./numbers";
import { matches } from "./Palette";
import { SearchBox } from "./SearchBox";

const MOST = 4 * 2 ** 20;

export function OpenDialog({ onClose }: { onClose(): void }): ReactNode {
  const zoo = useCanvas((state) => state.catalogue?.zoo);
  const [query, setQuery] = useState("");
  const [opening, setOpening] = useState<string | null>(null);
  const [failure, setFailure] = useState<Failure | null>(null);
  const [over, setOver] = useState(false);
  const alive = useRef(true);
  const found = useMemo(() => (zoo ?? []).filter((entry) => matches(query.trim(), entry.name, entry.family)), [zoo, query]);

  useEffect(() => {
    alive.current = true;
    return () => { alive.current = false; };
  }, []);

  async function open(what: Omit<Open, "type">, title: string): Promise<void> {
    if (opening) return;
    setFailure(null);
    setOpening(title);
    const reply = await useCanvas.getState().send({ type: "open", ...what });
    if (!alive.current) return;
    setOpening(null);
    if (!reply.ok) return setFailure(reply.error ?? { message: `${title} could not be opened.` });
    useCanvas.getState().say("done", `Opened ${title}`, "Undo leads back.");
    onClose();
  }

  async function read(file: File | undefined): Promise<void> {
    if (!file || opening) return;
    if (file.size > MOST) {
      setFailure({
        message: `${file.name} has ${(file.size / 2 ** 20).toFixed(1)} MB; at most 4 MB are read.`,
        hint: "Weights are not needed: a model's config.json, or a saved .canvas.json, is enough.",
      });
      return;
    }
    const text = await file.text().catch(() => null);
    if (text === null) setFailure({ message: `${file.name} could not be read.`, hint: "Is it still there?" });
    else await open({ source: "text", name: file.name, text }, file.name);
  }

  function drop(event: DragEvent): void {
    event.preventDefault();
    setOver(false);
    void read(event.dataTransfer.files[0]);
  }

  return (
    <Dialog title="Open" className="cp-open" onClose={onClose}>
      <div
        className="cp-open-body" onDragOver={(event) => { event.preventDefault(); setOver(true); }}
        onDragLeave={(event) => { if (!event.currentTarget.contains(event.relatedTarget as Node | null)) setOver(false); }} onDrop={drop}
      >
        <section className="cp-zoo" aria-label="Model zoo">
          <h3 className="cp-heading">Model zoo{zoo && <span>{plural(zoo.length, "model")}</span>}</h3>
          <SearchBox label="Search models" value={query} onChange={setQuery} onEnter={() => found[0] && void open({ source: "zoo", name: found[0].name }, found[0].name)} />
          <ul className="cv-scroll">
            {found.map((entry) => (
              <li key={entry.name}>
                <button
                  type="button" className="cp-zoo-entry" data-testid={`zoo-${entry.name}`} aria-disabled={opening !== null || undefined}
                  onClick={() => void open({ source: "zoo", name: entry.name }, entry.name)}
                >
                  <b>{entry.name}</b>
                  <span>{entry.family}</span>
                  <em>{count(entry.parameters)}</em>
                </button>
              </li>
            ))}
            {!found.length && <li className="cp-empty">{zoo?.length ? `No model is called “${query.trim()}”.` : "Loading…"}</li>}
          </ul>
        </section>
        <div className="cp-open-side">
          <section aria-label="A file of yours">
            <h3 className="cp-heading">A file of yours</h3>
            <label className={`cp-drop${over ? " cv-on" : ""}`}>
              <Icon name="upload" size={20} />
              <b>Choose a file, or drop it here</b>
              <span>A config.json as on the Hugging Face Hub, or a saved .canvas.json</span>
              <input
                type="file" className="cv-unseen" accept=".json,application/json" aria-label="Choose a file" disabled={opening !== null}
                onChange={(event) => { void read(event.target.files?.[0]); event.target.value = ""; }}
              />
            </label>
          </section>
          <section aria-label="Start afresh">
            <h3 className="cp-heading">Start afresh</h3>
            <button type="button" className="cp-start" data-testid="open-skeleton" aria-disabled={opening !== null || undefined} onClick={() => void open({ source: "skeleton" }, "a skeleton")}>
              <Icon name="skeleton" size={20} />
              <span><b>Skeleton</b>A small decoder that runs: embedding, layers, norm and head, ready to be changed.</span>
            </button>
            <button type="button" className="cp-start" data-testid="open-blank" aria-disabled={opening !== null || undefined} onClick={() => void open({ source: "blank" }, "a blank document")}>
              <Icon name="blank" size={20} />
              <span><b>Blank</b>An embedding and a head, nothing between them: build the rest yourself.</span>
            </button>
          </section>
        </div>
      </div>
      <div className="cp-open-foot" aria-live="polite">
        {opening && <Progress title={opening} />}
        {failure && (
          <div className="cp-failure" role="alert">
            <Icon name="error" />
            <p><b>{failure.path ? `${failure.path}: ` : ""}{failure.message}</b>{failure.hint}</p>
          </div>
        )}
      </div>
    </Dialog>
  );
}

function Progress({ title }: { title: string }): ReactNode {
  const [late, setLate] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLate(true), 1200);
    return () => clearTimeout(timer);
  }, []);
  return (
    <div className="cp-progress" data-testid="opening">
      <p>Opening {title}…{late && <span> Tracing a new config takes up to ten seconds.</span>}</p>
      <div className="cp-track"><i /></div>
    </div>
  );
}
