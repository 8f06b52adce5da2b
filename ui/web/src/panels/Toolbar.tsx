/** The bar on top: what is open, what can be undone, what it costs, and whether the work is safe. */
import { useEffect, useState, type ReactNode } from "react";

import { useCanvas } from "../store";
import { IconButton } from "./Button";
import { Gauge } from "./Gauge";
import { Icon, Mark } from "./icons";
import { arrange, useLayout } from "./layout";
import { plural } from "./numbers";
import { download } from "./saving";
import { guarded } from "./Guard";
import "./panels.css";

export const Toolbar = guarded("The toolbar", function Toolbar(): ReactNode {
  const step = useCanvas((state) => state.step);
  const { left, right } = useLayout();
  const { send, set } = useCanvas.getState();
  return (
    <header className="cp-toolbar">
      <IconButton
        icon="left" label="Palette and outline" tip={left ? "Close the left panel" : "Open the left panel"} pressed={left} side="start"
        onClick={() => arrange({ left: !left })}
      />
      <div className="cp-brand"><Mark /><span>Canvas</span></div>
      <Title />
      <div className="cp-tools">
        <IconButton icon="open" label="Open" tip="Open a model, a config or a document" text="Open…" onClick={() => set({ dialog: "open" })} />
        <IconButton icon="save" label="Save" tip="Save the document as a file" text="Save" onClick={() => void download()} />
        <hr />
        <IconButton
          icon="undo" label="Undo" tip={step.undo ? `Undo: ${step.undo}` : "Nothing to undo"} shortcut={step.undo ? "Ctrl+Z" : undefined}
          disabled={!step.undo} onClick={() => void send({ type: "undo" })}
        />
        <IconButton
          icon="redo" label="Redo" tip={step.redo ? `Redo: ${step.redo}` : "Nothing to redo"}
          shortcut={step.redo ? "Ctrl+Shift+Z" : undefined} disabled={!step.redo} onClick={() => void send({ type: "redo" })}
        />
        <hr />
        <IconButton icon="search" label="Find" tip="Find a node" shortcut="Ctrl+F" onClick={() => set({ dialog: "find" })} />
      </div>
      <Gauge />
      <Status />
      <div className="cp-tools">
        <IconButton icon="keys" label="Keyboard shortcuts" shortcut="?" side="end" onClick={() => set({ dialog: "keys" })} />
        <IconButton
          icon="right" label="Inspector and resources" tip={right ? "Close the right panel" : "Open the right panel"} pressed={right} side="end"
          onClick={() => arrange({ right: !right })}
        />
      </div>
    </header>
  );
});

/** Where documents come from that were not imported. */
const FRESH = new Set(["", "blank", "skeleton"]);

function Title(): ReactNode {
  const name = useCanvas((state) => state.name);
  const origin = useCanvas((state) => state.origin);
  const edits = useCanvas((state) => state.edits);
  const what = edits ? plural(edits, "edit") : FRESH.has(origin) ? "new" : "as imported";
  return (
    <h1 className="cp-title" title={origin && origin !== name ? `${name}, opened from ${origin}` : name}>
      <span>{name || "…"}</span>
      {name && <small> · {what}</small>}
    </h1>
  );
}

/** Answers that come at once are not worth a word: "Working…" is for those that take a while. */
function Status(): ReactNode {
  const status = useCanvas((state) => state.status);
  const kept = useCanvas((state) => state.kept);
  const ready = useCanvas((state) => state.ready);
  const [slow, setSlow] = useState(false);
  useEffect(() => {
    setSlow(false);
    if (status !== "working") return;
    const timer = setTimeout(() => setSlow(true), 400);
    return () => clearTimeout(timer);
  }, [status]);
  return (
    <div className="cp-status" role="status" data-status={status}>
      {status === "offline" && <><Icon name="offline" /><span>Offline, retrying</span></>}
      {status === "restoring" && <><i className="cp-spin" /><span>Restoring your work…</span></>}
      {status === "working" && slow && <><i className="cp-spin" /><span className="cp-aside" title="Working…">Working…</span></>}
      {(status === "ready" || (status === "working" && !slow)) && ready && (
        kept
          ? <><Icon name="check" /><span className="cp-aside" title="Kept in this browser as you go">Saved</span></>
          : <><Icon name="warning" /><span className="cp-aside" title="This browser has no room for it: save the document as a file">Not kept</span></>
      )}
    </div>
  );
}
