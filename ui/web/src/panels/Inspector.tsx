/** All about what is selected: one node, several, or the document. */
import { useState, type ReactNode } from "react";

import type { NodeView } from "../protocol";
import { copy } from "../canvas/clipboard";
import { useCanvas } from "../store";
import { Field } from "./Field";
import { Icon } from "./icons";
import { NodeInspector } from "./NodeInspector";
import { plural } from "./numbers";
import { groupColour } from "./parts";
import { ShapeText } from "./ShapeText";

export function Inspector(): ReactNode {
  const selection = useCanvas((state) => state.selection);
  const wires = useCanvas((state) => state.selectedWires);
  const [path] = selection;
  if (selection.size === 1) return <NodeInspector key={path} path={path!} />;
  if (selection.size > 1) return <Several paths={[...selection]} />;
  if (wires.size) return <Wires ids={[...wires]} />;
  return <DocumentInspector />;
}

function DocumentInspector(): ReactNode {
  const name = useCanvas((state) => state.name);
  const origin = useCanvas((state) => state.origin);
  const edits = useCanvas((state) => state.edits);
  const all = useCanvas((state) => state.sizes);
  const sizes = all.filter((field) => field.kind === "size");
  const others = all.filter((field) => field.kind !== "size");
  return (
    <div className="cv-scroll cp-inside">
      <div className="cp-card-head">
        <b className="cp-name">{name}</b>
        <span>{origin ? `Opened from ${origin}, ${edits ? plural(edits, "edit") + " since" : "not edited"}` : plural(edits, "edit")}</span>
      </div>
      {sizes.length > 0 && (
        <section aria-label="Sizes">
          <h3 className="cp-heading">Sizes</h3>
          {sizes.map((field) => <Field key={field.id} field={field} path="" />)}
        </section>
      )}
      {others.length > 0 && (
        <section aria-label="Config">
          <h3 className="cp-heading">Config</h3>
          {others.map((field) => <Field key={field.id} field={field} path="" />)}
        </section>
      )}
    </div>
  );
}

function Wires({ ids }: { ids: string[] }): ReactNode {
  const wires = useCanvas((state) => state.wires);
  const { send, reveal, path } = useCanvas.getState();
  const chosen = ids.flatMap((id) => wires.get(id) ?? []);
  return (
    <div className="cv-scroll cp-inside">
      <div className="cp-card-head"><b className="cp-name">{plural(chosen.length, "wire")}</b></div>
      <div className="cp-actions">
        <button type="button" className="cp-button cp-plain" onClick={() => void send({ type: "delete", wires: chosen.map((wire) => wire.target) })}>
          <Icon name="trash" />Delete
        </button>
      </div>
      {chosen.map((wire) => (
        <section key={wire.id} aria-label="Wire" className="cp-wire">
          <button type="button" className="cp-link" onClick={() => void reveal(path, wire.source.path)}>{short(wire.source.path)}.{wire.source.port}</button>
          <span> feeds </span>
          <button type="button" className="cp-link" onClick={() => void reveal(path, wire.target.path)}>{short(wire.target.path)}.{wire.target.port}</button>
          <ShapeText shape={wire.shape} />
          {wire.bad && <p className="cv-flaw">{wire.problem} {wire.hint}</p>}
        </section>
      ))}
    </div>
  );
}

const short = (path: string): string => path.split(".").at(-1) || "model";

function Several({ paths }: { paths: string[] }): ReactNode {
  const nodes = useCanvas((state) => state.nodes);
  const { send, select, set } = useCanvas.getState();
  const [naming, setNaming] = useState(false);
  const chosen = paths.flatMap((path) => nodes.get(path) ?? []);
  const parents = new Set(chosen.map((node) => node.parent ?? null));
  const groupable = parents.size === 1 && chosen.every((node) => node.kind !== "input" && node.kind !== "output");
  return (
    <div className="cv-scroll cp-inside">
      <div className="cp-card-head"><b className="cp-name">{plural(paths.length, "node")} selected</b></div>
      <div className="cp-actions">
        {groupable && <button type="button" className="cp-button cp-plain" aria-expanded={naming} onClick={() => setNaming(!naming)}><Icon name="group" />Group…</button>}
        <button type="button" className="cp-button cp-plain" onClick={() => void copy()}><Icon name="copy" />Copy</button>
        <button type="button" className="cp-button cp-plain" onClick={() => void send({ type: "delete", paths })}><Icon name="trash" />Delete</button>
      </div>
      {naming && groupable && <GroupForm nodes={chosen} onDone={() => setNaming(false)} />}
      <ul className="cp-list">
        {chosen.map((node) => (
          <li key={node.path}>
            <button type="button" className="cp-listed" onClick={() => { select([node.path]); set({ goal: node.path }); }}>
              <i className="cp-dot" style={{ "--group": groupColour(node.group) } as React.CSSProperties} />
              <b>{node.id}</b>
              <span>{node.title}</span>
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

/** `Gated block` → the block `GatedBlock`, used as `gated_block`. */
function names(text: string): { block: string; new_id: string } {
  const words = text.replace(/([a-z0-9])([A-Z])/g, "$1 $2").split(/[^A-Za-z0-9]+/).filter(Boolean);
  return { block: words.map((word) => word[0]!.toUpperCase() + word.slice(1)).join(""), new_id: words.join("_").toLowerCase() };
}

function GroupForm({ nodes, onDone }: { nodes: NodeView[]; onDone(): void }): ReactNode {
  const [text, setText] = useState("");
  const { send, select, path } = useCanvas.getState();
  const named = names(text);
  const fit = /^[A-Za-z]/.test(named.block);
  async function group(): Promise<void> {
    const holder = nodes[0]!.parent ?? path;
    const edit = { kind: "group_nodes", block_path: holder, ids: nodes.map((node) => node.id), ...named };
    const reply = await send({ type: "edit", edits: [edit] });
    if (!reply.ok) return;
    onDone();
    const made = [holder, named.new_id].filter(Boolean).join(".");
    if (useCanvas.getState().nodes.has(made)) select([made]);
  }
  return (
    <form className="cp-form" onSubmit={(event) => { event.preventDefault(); if (fit) void group(); }}>
      <label>
        Name of the new block
        <input
          className="cv-input" autoFocus value={text} spellCheck={false} onChange={(event) => setText(event.target.value)}
          onKeyDown={(event) => { event.stopPropagation(); if (event.key === "Escape") onDone(); }}
        />
      </label>
      <button type="submit" className="cp-button cp-primary" disabled={!fit}>Group</button>
      {fit && <p>Makes the block <code>{named.block}</code>, used here as <code>{named.new_id}</code>.</p>}
    </form>
  );
}
