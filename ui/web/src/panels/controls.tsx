/** The controls that settings are changed with: number, slider, switch, choice, segments. */
import { useEffect, useId, useRef, useState, type KeyboardEvent, type ReactNode } from "react";

import { plain } from "./numbers";

/** Names one drag, or one run of key presses: its edits make one step of undo. */
let gestures = 0;
const page = Math.random().toString(36).slice(2, 8);
export const newGesture = (): string => `${page}-${++gestures}`;

/** Text typed into a number field: a number, or what only the server can read (`=head_dim * 2`). Empty: nothing. */
export function typed(text: string): number | string | null {
  const trimmed = text.trim();
  if (!trimmed) return null;
  if (trimmed.startsWith("=")) return trimmed;
  const grouped = /^[+-]?\d{1,3}(,\d{3})+$/.test(trimmed) ? trimmed.replaceAll(",", "") : trimmed;
  const number = Number(grouped.replace(/[\s_]/g, ""));
  return Number.isFinite(number) ? number : trimmed;
}

interface NumberInputProps {
  id?: string;
  label: string;
  value: number | string | null;
  /** The expression that it follows from; typing then begins with that. */
  expression?: string;
  /** The next value up (1) or down (-1); without it, the arrows do nothing. */
  next?(value: number, direction: 1 | -1, large: boolean): number;
  /** Also tell of numbers while they are typed. */
  live?: boolean;
  describedBy?: string;
  onCommit(value: number | string, gesture: string | null): void;
}

/** Enter and leaving commit, Escape takes back, arrows step. */
export function NumberInput({ id, label, value, expression, next, live, describedBy, onCommit }: NumberInputProps): ReactNode {
  const [text, setText] = useState<string | null>(null);
  const [focused, setFocused] = useState(false);
  const before = useRef<number | string | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const stepping = useRef({ gesture: "", time: 0 });
  const rest = typeof value === "number" ? plain(value) : (value ?? "");
  const shown = text ?? (focused && expression ? `=${expression}` : rest);

  useEffect(() => () => clearTimeout(timer.current), []);

  function commit(): void {
    clearTimeout(timer.current);
    if (text === null) return;
    const entered = typed(text);
    setText(null);
    if (entered !== null && entered !== value) onCommit(entered, null);
  }

  function type(now: string): void {
    setText(now);
    clearTimeout(timer.current);
    const entered = typed(now);
    if (live && typeof entered === "number" && entered >= 1) timer.current = setTimeout(() => onCommit(entered, null), 300);
  }

  function revert(): void {
    clearTimeout(timer.current);
    setText(null);
    if (live && before.current !== null && before.current !== value) onCommit(before.current, null);
  }

  function step(direction: 1 | -1, large: boolean): void {
    const entered = text === null ? value : typed(text);
    if (!next || typeof entered !== "number") return;
    clearTimeout(timer.current);
    setText(null);
    if (Date.now() - stepping.current.time > 1000) stepping.current.gesture = newGesture();
    stepping.current.time = Date.now();
    onCommit(next(entered, direction, large), stepping.current.gesture);
  }

  function key(event: KeyboardEvent<HTMLInputElement>): void {
    const input = event.currentTarget;
    if (event.key === "Enter") {
      commit();
      requestAnimationFrame(() => input.select());
    } else if (event.key === "Escape") {
      event.preventDefault(); // a dialog or a level around it stays open
      revert();
      requestAnimationFrame(() => input.blur());
    } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      event.preventDefault();
      step(event.key === "ArrowUp" ? 1 : -1, event.shiftKey);
    } else return;
    event.stopPropagation();
  }

  return (
    <input
      id={id} className="cv-input cv-number" type="text" inputMode="text" autoComplete="off" spellCheck={false}
      aria-label={id ? undefined : label} aria-describedby={describedBy} value={shown} placeholder={value === null ? "none" : undefined}
      title={expression && !focused ? `${rest} = ${expression}` : undefined}
      onFocus={(event) => {
        const input = event.currentTarget;
        before.current = value;
        setFocused(true);
        requestAnimationFrame(() => document.activeElement === input && input.select());
      }}
      onBlur={() => { commit(); setFocused(false); }}
      onChange={(event) => type(event.target.value)} onKeyDown={key}
    />
  );
}

interface SliderProps {
  label: string;
  value: number;
  minimum: number;
  maximum: number;
  step: number | "any";
  onSlide(value: number, gesture: string): void;
  /** The thumb is let go. */
  onRest(): void;
}

export function Slider({ label, value, minimum, maximum, step, onSlide, onRest }: SliderProps): ReactNode {
  const gesture = useRef({ id: "", time: 0, held: false });
  const filled = Math.min(1, Math.max(0, (value - minimum) / (maximum - minimum || 1)));

  function slide(now: number): void {
    const { held, time } = gesture.current;
    // Without a pointer the keys move it: a pause ends that gesture.
    if (!gesture.current.id || (!held && Date.now() - time > 1000)) gesture.current.id = newGesture();
    gesture.current.time = Date.now();
    onSlide(now, gesture.current.id);
    if (!held) onRest();
  }

  function release(): void {
    if (!gesture.current.held) return;
    // The last move may be told after the release: it is of the same gesture still, which a pause or a press ends.
    gesture.current = { ...gesture.current, time: Date.now(), held: false };
    onRest();
  }

  return (
    <input
      type="range" className="cv-slider" aria-label={`${label}, slider`} min={minimum} max={maximum} step={step} value={value}
      style={{ "--filled": `${filled * 100}%` } as React.CSSProperties}
      onPointerDown={() => { gesture.current = { id: newGesture(), time: Date.now(), held: true }; }}
      onPointerUp={release} onPointerCancel={release} onLostPointerCapture={release} onBlur={release}
      onChange={(event) => slide(event.target.valueAsNumber)}
    />
  );
}

export function Switch({ id, on, label, onChange }: { id?: string; on: boolean; label: string; onChange(on: boolean): void }): ReactNode {
  return (
    <button
      id={id} type="button" role="switch" className="cv-switch" aria-checked={on} aria-label={label}
      onClick={() => onChange(!on)}
    >
      <span />
    </button>
  );
}

interface SelectProps {
  id?: string;
  label: string;
  value: string;
  options: readonly (string | { value: string; label: string })[];
  quiet?: boolean;
  onChange(value: string): void;
}

export function Select({ id, label, value, options, quiet, onChange }: SelectProps): ReactNode {
  const choices = options.map((option) => (typeof option === "string" ? { value: option, label: option } : option));
  if (!choices.some((choice) => choice.value === value)) choices.unshift({ value, label: value });
  return (
    <select
      id={id} className={quiet ? "cv-select cv-quiet" : "cv-select"} aria-label={id ? undefined : label} value={value}
      onChange={(event) => onChange(event.target.value)}
    >
      {choices.map((choice) => <option key={choice.value} value={choice.value}>{choice.label}</option>)}
    </select>
  );
}

interface SegmentsProps<T extends string> {
  label: string;
  value: T;
  options: readonly { value: T; label: string }[];
  onChange(value: T): void;
}

/** One of a few, all in view. */
export function Segments<T extends string>({ label, value, options, onChange }: SegmentsProps<T>): ReactNode {
  const name = useId();
  return (
    <fieldset className="cv-segments">
      <legend className="cv-unseen">{label}</legend>
      {options.map((option) => (
        <label key={option.value} className={option.value === value ? "cv-on" : undefined}>
          <input type="radio" name={name} value={option.value} checked={option.value === value} onChange={() => onChange(option.value)} />
          {option.label}
        </label>
      ))}
    </fieldset>
  );
}
