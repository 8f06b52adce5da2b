/** One node: its settings, what it reads and gives, its parameters, and what it costs. */
import { useState, type KeyboardEvent, type ReactNode } from "react";

import type { Details, NodeView, Share, Source } from "../protocol";
import { copy } from "../canvas/clipboard";
import { useCanvas } from "../store";
import { IconButton } from "./Button";
import { Field } from "./Field";
import { Icon } from "./icons";
import { count, percent, plain, plural, whole } from "./numbers";
import { groupColour } from "./parts";
import { PathText } from "./PathText";
import { ProblemRow } from "./Problems";
import { ShapeText } from "./ShapeText";

export function NodeInspector({ path }: { path: string }): ReactNode {
  const node = useCanvas((state) => state.nodes.get(path));
  const known = useCanvas((state) => state.details);
  // Right after a click the answer is still on its way: what the canvas knows stands in for it.
  const details = known?.path === path ? known : null;
  return (
    <div className="cv-scroll cp-inside">
      <Head node={node} details={details} path={path} />
      <Actions node={node} details={details} path={path} />
      {details ? <Body details={details} node={node} /> : <p className="cp-empty">{node ? node.detail : "Loading…"}</p>}
    </div>
  );
}

function Head({ node, details, path }: { node?: NodeView; details: Details | null; path: string }): ReactNode {
  const title = details?.title ?? node?.title ?? "";
  const id = details?.id ?? node?.id ?? path;
  const kind = details?.kind ?? node?.kind;
  return (
    <div className="cp-card-head" style={{ "--group": groupColour(node?.group ?? "") } as React.CSSProperties}>
      <div className="cp-name-row">
        <Name key={id} id={id} path={path} renamable={details?.renamable ?? false} />
        {kind !== "input" && kind !== "output" && (
          <>
            <IconButton icon="copy" label="Copy" shortcut="Ctrl+C" side="end" onClick={() => void copy()} />
            <IconButton icon="trash" label="Delete" shortcut="Del" side="end" onClick={() => void useCanvas.getState().send({ type: "delete", paths: [path] })} />
          </>
        )}
      </div>
      <span><i className="cp-dot" />{[title, details?.layers].filter(Boolean).join(" · ")}</span>
    </div>
  );
}

function Name({ id, path, renamable }: { id: string; path: string; renamable: boolean }): ReactNode {
  const [text, setText] = useState(id);
  if (!renamable) return <b className="cp-name" title={path}>{id}</b>;

  async function commit(): Promise<void> {
    const new_id = text.trim();
    if (!new_id || new_id === id) return setText(id);
    const reply = await useCanvas.getState().send({ type: "edit", edits: [{ kind: "rename_node", path, new_id }] });
    if (!reply.ok) return setText(id);
    const renamed = path.slice(0, path.length - id.length) + new_id;
    const { nodes, select } = useCanvas.getState();
    if (nodes.has(renamed)) select([renamed]);
  }
  function key(event: KeyboardEvent<HTMLInputElement>): void {
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
    if (event.key === "Enter") event.currentTarget.blur();
    if (event.key === "Escape") setText(id);
  }
  return (
    <input
      className="cv-input cp-name" aria-label="Name of the node" title={path} spellCheck={false} autoComplete="off" value={text}
      onChange={(event) => setText(event.target.value)} onBlur={() => void commit()} onKeyDown={key}
    />
  );
}

/** What only nodes with an inside can be asked. */
function Actions({ node, details, path }: { node?: NodeView; details: Details | null; path: string }): ReactNode {
  const { send, look } = useCanvas.getState();
  const kind = details?.kind ?? node?.kind;
  const block = kind === "use" || kind === "frame";
  const linked = node?.linked ?? 0;
  const edit = (kindOfEdit: string) => void send({ type: "edit", edits: [{ kind: kindOfEdit, path }] });
  return (
    <>
      {(block || node?.enter != null) && (
        <div className="cp-actions">
          {node?.enter != null && <button type="button" className="cp-button cp-plain" onClick={() => void look(node.enter!)}><Icon name="enter" />Enter</button>}
          {block && <button type="button" className="cp-button cp-plain" onClick={() => edit("ungroup")}><Icon name="ungroup" />Ungroup</button>}
        </div>
      )}
      {linked > 0 && (
        <p className="cp-linked">
          <Icon name="link" size={14} />
          <span>Linked with {plural(linked, "other use")}: an edit inside reaches {linked === 1 ? "it" : "them"} too.</span>
          {block && <button type="button" className="cp-link" onClick={() => edit("make_unique")}>Make unique</button>}
        </p>
      )}
    </>
  );
}

function Body({ details, node }: { details: Details; node?: NodeView }): ReactNode {
  const { fields, problems, inputs, outputs, parameters, share, formulas } = details;
  return (
    <>
      {problems.length > 0 && <section aria-label="Problems here" className="cp-here">{problems.map((problem, index) => <ProblemRow key={index} problem={problem} at={details.path} />)}</section>}
      {node?.dead && !problems.length && <p className="cp-linked"><Icon name="note" size={14} /><span>No output depends on this node: it is neither run nor emitted.</span></p>}
      {details.summary && <p className="cp-summary">{details.summary}</p>}
      {fields.length > 0 && (
        <section aria-label="Settings">
          {fields.map((field) => <Field key={field.id} field={field} path={details.path} />)}
        </section>
      )}
      <Ends title="Inputs" sources={inputs} none="nothing" />
      <Ends title="Outputs" sources={outputs} none="not read" />
      {parameters.length > 0 && (
        <section aria-label="Parameters">
          <h3 className="cp-heading">Parameters<span>{count(parameters.reduce((sum, each) => sum + (each.tied ? 0 : each.count), 0))}</span></h3>
          {parameters.map((each) => (
            <div key={each.key} className="cp-parameter">
              <PathText path={each.key} />
              <span>{each.shape.map(whole).join(" × ") || "scalar"}</span>
              <span>{each.tied ? `tied to ${each.tied}` : whole(each.count)}</span>
            </div>
          ))}
        </section>
      )}
      {share && <Shares share={share} />}
      {formulas.length > 0 && (
        <section aria-label="Formulas">
          <h3 className="cp-heading">Formulas</h3>
          {formulas.map((formula) => (
            <div key={formula.name} className="cp-formula">
              <span>{formula.name}</span>
              <b>{spaced(formula.value)}{formula.unit && ` ${formula.unit}`}</b>
              <code>{formula.text}</code>
            </div>
          ))}
        </section>
      )}
      {details.paper && <p className="cp-paper"><Icon name="paper" size={14} /><Paper text={details.paper} /></p>}
    </>
  );
}

const spaced = (value: number): string => (Number.isInteger(value) ? whole(value) : plain(Number(value.toPrecision(4))));

/** Only addresses that are plainly the web's become links: the text may come from anybody's document. */
function Paper({ text }: { text: string }): ReactNode {
  return <span>{text.split(/(https:\/\/[^\s<>"]+[^\s<>".,;)])/).map((part, index) =>
    index % 2 ? <a key={index} href={part} target="_blank" rel="noreferrer noopener">{part.replace("https://", "")}</a> : part)}</span>;
}

function Ends({ title, sources, none }: { title: string; sources: Source[]; none: string }): ReactNode {
  const nodes = useCanvas((state) => state.nodes);
  const { reveal, path } = useCanvas.getState();
  if (!sources.length) return null;
  return (
    <section aria-label={title}>
      <h3 className="cp-heading">{title}</h3>
      {sources.map((source) => (
        <div key={source.port} className="cp-port">
          <b>{source.port}</b>
          <span className="cp-ends">
            {source.ends.length ? source.ends.map((end) => {
              const node = nodes.get(end.path);
              const name = node?.id ?? end.path.split(".").at(-1) ?? end.path;
              return node ? (
                <button key={`${end.path} ${end.port}`} type="button" className="cp-link" title={`${end.path}, ${end.port}`} onClick={() => void reveal(path, end.path)}>{name}</button>
              ) : (
                <span key={`${end.path} ${end.port}`} title={`${end.path}, ${end.port}`}>{name}</span>
              );
            }) : <em>{none}</em>}
          </span>
          <ShapeText shape={source.shape} />
        </div>
      ))}
    </section>
  );
}

const SHARES: [keyof Share, string][] = [["parameters", "Parameters"], ["flops", "FLOPs"], ["memory", "Memory traffic"], ["time", "Time"]];

function Shares({ share }: { share: Share }): ReactNode {
  return (
    <section aria-label="Share of the whole">
      <h3 className="cp-heading">Share of the whole</h3>
      {SHARES.map(([key, label]) => (
        <div key={key} className="cp-share">
          <span>{label}</span>
          <div className="cp-track"><i style={{ width: `${Math.min(1, share[key]) * 100}%` }} /></div>
          <b>{percent(share[key])}</b>
        </div>
      ))}
    </section>
  );
}
