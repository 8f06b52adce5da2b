/** Choose which layers of a stack are shown, and so which an edit changes: all, a kind of them, one, or a range. */
import { useEffect, useId, useRef, useState, type FormEvent, type KeyboardEvent, type ReactNode } from "react";

import { Icon } from "../panels/icons";
import type { Crumb, LayerRange } from "../protocol";
import { useCanvas } from "../store";

const said = (first: number, last: number) => (first === last ? `${first}` : `${first}–${last}`);
const asPath = (first: number, last: number) => (first === last ? `${first}` : `${first}-${last}`);

export function LayerPicker({ layers, here, crumb }: { layers: LayerRange; here: boolean; crumb: Crumb }): ReactNode {
  const [open, setOpen] = useState(false);
  const box = useRef<HTMLSpanElement>(null);
  const id = useId();
  const name = layers.stack.split(".").at(-1)!;

  useEffect(() => {
    if (!open) return;
    const outside = (event: PointerEvent) => !box.current?.contains(event.target as globalThis.Node) && setOpen(false);
    window.addEventListener("pointerdown", outside, true);
    return () => window.removeEventListener("pointerdown", outside, true);
  }, [open]);

  function key(event: KeyboardEvent): void {
    if (!open) return;
    event.stopPropagation();
    if (event.key === "Escape") {
      event.preventDefault();
      close();
      return;
    }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    const stops = [...(box.current?.querySelectorAll<HTMLElement>(".cn-layers-menu button, .cn-layers-menu input") ?? [])];
    const at = stops.indexOf(document.activeElement as HTMLElement);
    stops[(at + (event.key === "ArrowDown" ? 1 : -1) + stops.length) % stops.length]?.focus();
  }

  function close(): void {
    setOpen(false);
    box.current?.querySelector<HTMLElement>(".cn-layers")?.focus();
  }

  return (
    <span className="cn-layers-box" ref={box} onKeyDown={key}>
      {here ? <span aria-current="page">{name}</span> : <button type="button" onClick={() => void useCanvas.getState().look(crumb.path)}>{name}</button>}
      <button
        type="button" className="cn-layers" aria-haspopup="dialog" aria-expanded={open} aria-controls={open ? id : undefined}
        aria-label={`Layers ${said(layers.first, layers.last)} of ${layers.count}: choose others`} title="Which layers are shown, and changed by edits"
        data-testid="layers" onClick={() => setOpen(!open)}
      >
        {said(layers.first, layers.last)}<Icon name="down" size={12} />
      </button>
      {open && <Choices id={id} layers={layers} crumb={crumb} onClose={close} />}
    </span>
  );
}

function Choices({ id, layers, crumb, onClose }: { id: string; layers: LayerRange; crumb: Crumb; onClose(): void }): ReactNode {
  const { first, last, count, variants, stack } = layers;
  const first0 = useRef<HTMLButtonElement>(null);
  useEffect(() => first0.current?.focus(), []);

  /** The same place in other layers, where they are the same block; else their top. */
  function go(from: number, to: number): void {
    const { path } = useCanvas.getState();
    const block = (layer: number) => variants.find((variant) => within(variant.layers, layer))?.block;
    const rest = path.slice(crumb.path.length);
    onClose();
    void useCanvas.getState().look(`${stack}.${asPath(from, to)}${block(from) === block(first) ? rest : ""}`);
  }

  const whole = first === 0 && last === count - 1;
  return (
    <div className="cn-layers-menu" id={id} role="dialog" aria-label="Which layers">
      <button type="button" ref={first0} aria-pressed={whole} onClick={() => go(0, count - 1)}>
        <b>{said(0, count - 1)}</b><span>all {count} layers</span>
      </button>
      {variants.length > 1 && variants.map((variant) => {
        const [from, to] = ends(variant.layers);
        return (
          <button key={variant.layers} type="button" aria-pressed={!whole && from === first && to === last} onClick={() => go(from, to)}>
            <b>{said(from, to)}</b><span title={variant.label}>{variant.label || "as the model has it"}</span>
          </button>
        );
      })}
      {first !== last && <button type="button" onClick={() => go(first, first)}><b>{first}</b><span>only this layer</span></button>}
      <Typed count={count} onGo={go} />
    </div>
  );
}

function Typed({ count, onGo }: { count: number; onGo(from: number, to: number): void }): ReactNode {
  const [text, setText] = useState("");
  const [flaw, setFlaw] = useState("");
  const id = useId();
  function submit(event: FormEvent): void {
    event.preventDefault();
    const found = /^\s*(\d+)\s*(?:[-–]\s*(\d+)\s*)?$/.exec(text);
    const [from, to] = found ? [Number(found[1]), Number(found[2] ?? found[1])] : [NaN, NaN];
    if (!found) return setFlaw("A layer, such as 3, or a range, such as 8-15.");
    if (from > to) return setFlaw(`${from} comes after ${to}.`);
    if (to >= count) return setFlaw(`The last layer is ${count - 1}.`);
    onGo(from, to);
  }
  return (
    <form onSubmit={submit}>
      <label htmlFor={id}>Layers</label>
      <input id={id} className="cv-input" value={text} placeholder={`0-${count - 1}`} autoComplete="off" aria-invalid={flaw !== ""} aria-describedby={`${id}-flaw`} onChange={(event) => { setText(event.target.value); setFlaw(""); }} />
      <button type="submit" className="cn-layers-go">Show</button>
      {flaw && <p id={`${id}-flaw`} role="alert">{flaw}</p>}
    </form>
  );
}

function ends(layers: string): [number, number] {
  const [from, to] = layers.split("-").map(Number);
  return [from!, to ?? from!];
}

function within(layers: string, layer: number): boolean {
  const [from, to] = ends(layers);
  return layer >= from && layer <= to;
}
