/** One setting of a node or of the document, to be slid, typed, switched or chosen. Cards use it too (`compact`). */
import { memo, useId, useRef, useState, type KeyboardEvent, type ReactNode } from "react";

import type { FieldView } from "../protocol";
import { useCanvas } from "../store";
import { NumberInput, Select, Slider, Switch } from "./controls";
import "./field.css";

type Value = FieldView["value"];
type Scope = NonNullable<FieldView["scopes"]>[number];

export interface FieldProps {
  field: FieldView;
  /** The node whose field it is; empty for the document's. */
  path: string;
  /** One row of 24 px: label, slider, number. */
  compact?: boolean;
}

interface Setting {
  /** What to show: what was last set here while answers are due, else what the server says. */
  value: Value;
  put(value: Value, gesture?: string | null): void;
  hold(held: boolean): void;
}

/** The thumb leads and answers follow: while any is due, what the server says is older than what is shown. */
function useSetting(field: FieldView, path: string, scope: Scope | null): Setting {
  const [local, setLocal] = useState<{ value: Value } | null>(null);
  const due = useRef(0);
  const held = useRef(false);
  const settle = () => { if (!due.current && !held.current) setLocal(null); };
  return {
    value: local ? local.value : field.value,
    put(value, gesture = null) {
      due.current++;
      setLocal({ value });
      void useCanvas.getState().send({ type: "set", field: field.id, path, value, scope, gesture }).finally(() => {
        due.current--;
        settle();
      });
    },
    hold(now) {
      held.current = now;
      settle();
    },
  };
}

function stepOf(field: FieldView, value: number): number {
  if (field.step) return field.step;
  return field.kind === "size" || Number.isInteger(value) ? 1 : 10 ** Math.floor(Math.log10(Math.abs(value) || 1));
}

/** The arrow keys' next value: whole steps, ten with Shift, never below the least. */
function nextOf(field: FieldView, value: number, direction: 1 | -1, large: boolean): number {
  const step = stepOf(field, value) * (large ? 10 : 1);
  const next = Number((value + direction * step).toPrecision(12)); // 0.1 + 0.2
  const least = field.minimum ?? (field.kind === "size" ? 1 : -Infinity);
  return Math.max(next, Math.min(least, value));
}

function NumberField({ field, setting, id, about }: { field: FieldView; setting: Setting; id?: string; about?: string }): ReactNode {
  const { value } = setting;
  const own = value !== field.value;
  return (
    <NumberInput
      id={id} label={field.label} value={typeof value === "boolean" ? String(value) : value} describedBy={about}
      expression={field.derived && !own ? field.written.replace(/^=\s*/, "") : undefined}
      next={(from, direction, large) => nextOf(field, from, direction, large)}
      onCommit={(entered, gesture) => setting.put(entered, gesture)}
    />
  );
}

function SliderField({ field, setting }: { field: FieldView; setting: Setting }): ReactNode {
  const range = useRef(field);
  const held = useRef(false);
  // The range may follow the value; under a thumb that is held it must not, or the value would run away.
  if (!held.current) range.current = field;
  const { minimum, maximum, step } = range.current;
  if (minimum == null || maximum == null || maximum <= minimum) return null;
  const number = Number(setting.value ?? minimum);
  function hold(now: boolean): void {
    held.current = now;
    setting.hold(now);
  }
  return (
    <Slider
      label={field.label} minimum={minimum} maximum={maximum} step={step ?? (field.kind === "size" ? 1 : "any")}
      value={Number.isFinite(number) ? number : minimum}
      onSlide={(value, gesture) => { hold(true); setting.put(value, gesture); }} onRest={() => hold(false)}
    />
  );
}

function TextField({ field, setting, id }: { field: FieldView; setting: Setting; id: string }): ReactNode {
  const [text, setText] = useState<string | null>(null);
  const commit = () => {
    if (text !== null && text !== String(setting.value ?? "")) setting.put(text);
    setText(null);
  };
  function key(event: KeyboardEvent<HTMLInputElement>): void {
    if (event.key === "Enter") commit();
    else if (event.key === "Escape") {
      event.preventDefault();
      setText(null);
    }
  }
  return (
    <input
      id={id} className="cv-input" type="text" spellCheck={false} autoComplete="off" value={text ?? String(setting.value ?? "")}
      title={field.written} placeholder={setting.value === null ? "none" : undefined} onChange={(event) => setText(event.target.value)} onBlur={commit} onKeyDown={key}
    />
  );
}

function pretty(value: Value): string {
  try {
    return JSON.stringify(JSON.parse(String(value ?? "null")), null, 1).replace(/\[\s+([^[\]{}]*?)\s+\]/g, (_, inner: string) => `[${inner.replace(/\s*\n\s*/g, " ")}]`);
  } catch {
    return String(value ?? "");
  }
}

/** A list or a table, as JSON: Ctrl+Enter or leaving commits what can be read. */
function TableField({ setting, id }: { setting: Setting; id: string }): ReactNode {
  const [text, setText] = useState<string | null>(null);
  const [flaw, setFlaw] = useState("");
  const shown = text ?? pretty(setting.value);
  function commit(): void {
    if (text === null) return;
    try {
      const value = JSON.stringify(JSON.parse(text));
      setText(null);
      setFlaw("");
      if (pretty(value) !== pretty(setting.value)) setting.put(value);
    } catch {
      setFlaw("This is not JSON yet. Escape takes it back.");
    }
  }
  function key(event: KeyboardEvent<HTMLTextAreaElement>): void {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      commit();
    } else if (event.key === "Escape") {
      event.preventDefault();
      setText(null);
      setFlaw("");
    }
  }
  return (
    <>
      <textarea
        id={id} className="cv-input cv-table" spellCheck={false} rows={Math.min(8, Math.max(2, shown.split("\n").length))}
        aria-invalid={flaw !== ""} aria-describedby={flaw ? `${id}-flaw` : undefined} value={shown}
        onChange={(event) => setText(event.target.value)} onBlur={commit} onKeyDown={key}
      />
      {flaw && <p id={`${id}-flaw`} className="cv-flaw">{flaw}</p>}
    </>
  );
}

const SCOPES: Record<Scope, string> = { all: "all linked", layers: "these layers", node: "this node" };

function ScopeChoice({ field, scope, onChange }: { field: FieldView; scope: Scope; onChange(scope: Scope): void }): ReactNode {
  const scopes = field.scopes ?? [];
  const reach = field.reach ?? "";
  const said = (each: Scope) => (each === scopes[0] && reach && reach !== SCOPES[each] ? `${SCOPES[each]}: ${reach}` : SCOPES[each]);
  return (
    <label className="cv-reach">
      Applies to{" "}
      <Select
        quiet label={`${field.label} applies to`} value={scope} options={scopes.map((each) => ({ value: each, label: said(each) }))}
        onChange={(value) => onChange(value as Scope)}
      />
    </label>
  );
}

function Control({ field, setting, id, about }: { field: FieldView; setting: Setting; id: string; about?: string }): ReactNode {
  if (field.kind === "flag") return <Switch id={id} on={Boolean(setting.value)} label={field.label} onChange={(on) => setting.put(on)} />;
  if (field.kind === "choice") {
    return <Select id={id} label={field.label} value={String(setting.value ?? "")} options={field.options ?? []} onChange={(value) => setting.put(value)} />;
  }
  if (field.kind === "text") return <TextField field={field} setting={setting} id={id} />;
  if (field.kind === "table") return <TableField setting={setting} id={id} />;
  return <NumberField field={field} setting={setting} id={id} about={about} />;
}

/** Keys that act on a field are not the canvas' shortcuts; those with Ctrl still are. */
function keep(event: KeyboardEvent): void {
  if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
}

export const Field = memo(function Field({ field, path, compact = false }: FieldProps): ReactNode {
  const [chosen, setChosen] = useState<Scope | null>(null);
  const scopes = field.scopes ?? [];
  const scope = chosen && scopes.includes(chosen) ? chosen : (scopes[0] ?? null);
  const setting = useSetting(field, path, scope);
  const id = useId();
  const numeric = field.kind === "size" || field.kind === "number";
  const slides = numeric && field.minimum != null && field.maximum != null;
  const tip = [field.label, field.summary].filter(Boolean).join(": ");

  if (compact) {
    return (
      <div
        className={`cv-field cv-compact nodrag nopan nowheel${slides ? " cv-slides" : ""}`} data-testid={`field-${field.id}`}
        onKeyDown={keep} onDoubleClick={(event) => event.stopPropagation()}
      >
        <label htmlFor={id} title={tip}>{field.label}</label>
        {slides && <SliderField field={field} setting={setting} />}
        {field.kind === "table" ? <span className="cv-reach" title={field.written}>{field.written}</span> : <Control field={field} setting={setting} id={id} />}
      </div>
    );
  }
  const derived = Boolean(field.derived) && numeric;
  const about = derived ? `${id}-written` : undefined;
  const choice = scopes.length > 1;
  // Of the document's own fields everybody knows what they reach.
  const reach = !choice && path !== "" && field.reach && <span className="cv-reach" title={`A change reaches ${field.reach}`}>{field.reach}</span>;
  return (
    <div className="cv-field" data-kind={field.kind} data-testid={`field-${field.id}`} onKeyDown={keep}>
      <div className="cv-field-row">
        <div className="cv-field-name">
          <label htmlFor={id} title={tip}>{field.label}</label>
          {!derived && reach}
        </div>
        <Control field={field} setting={setting} id={id} about={about} />
      </div>
      {slides && <SliderField field={field} setting={setting} />}
      {(derived || choice) && (
        <div className="cv-field-foot">
          {derived && <code id={about} title={field.written}>= {field.written.replace(/^=\s*/, "")}</code>}
          {derived && reach}
          {choice && <ScopeChoice field={field} scope={scope ?? "all"} onChange={setChosen} />}
        </div>
      )}
    </div>
  );
});
