/** How the model is run and on what, and what that takes: memory by part, time, and whether it fits. */
import { useRef, useState, type ReactNode } from "react";

import type { Scenario, Totals } from "../protocol";
import { useCanvas } from "../store";
import { NumberInput, Segments, Select } from "./controls";
import { Donut } from "./Donut";
import { useLastTotals, useObstacle } from "./Gauge";
import { Icon } from "./icons";
import { bytes, count, flops, rate, seconds } from "./numbers";

const MODES = { train: "Train", prefill: "Prefill", decode: "Decode", chat: "Chat" } as const;

/** The scenario as set here: answers that are still due are older than it. */
function useScenario(): [Scenario, (part: Partial<Scenario>) => void] {
  const known = useCanvas((state) => state.scenario);
  const [local, setLocal] = useState<Scenario | null>(null);
  const latest = useRef<Scenario | null>(null);
  const due = useRef(0);
  function change(part: Partial<Scenario>): void {
    latest.current = { ...(latest.current ?? useCanvas.getState().scenario), ...part };
    setLocal(latest.current);
    due.current++;
    void useCanvas.getState().send({ type: "scenario", scenario: latest.current }).finally(() => {
      if (--due.current) return;
      latest.current = null;
      setLocal(null);
    });
  }
  return [local ?? known, change];
}

type Words = "dtype" | "optimizer" | "attention" | "weights" | "recompute" | "loss" | "implementation" | "cache";
type Numbers = "generate" | "accumulation" | "lora" | "page";
interface Setter { scenario: Scenario; change(part: Partial<Scenario>): void }

/** The settings that are folded away, as they usually are: what is not as usual is told in their summary. */
const USUAL = {
  attention: "auto", weights: "same", recompute: "none", loss: "plain", implementation: "auto", cache: "same", accumulation: 1, lora: 0, page: 0,
} as const;
const GENERATED = 256;
const ONLY_TRAIN: readonly string[] = ["recompute", "loss", "implementation", "accumulation", "lora"];
const ONLY_SERVE: readonly string[] = ["cache", "page"];

function chosen(scenario: Scenario, mode: string): string {
  const idle = mode === "train" ? ONLY_SERVE : ONLY_TRAIN;
  const odd = (Object.keys(USUAL) as (keyof typeof USUAL)[]).filter((name) => !idle.includes(name) && scenario[name] !== undefined && scenario[name] !== USUAL[name]);
  return odd.length ? `More: ${odd.map((name) => `${name} ${scenario[name]}`).join(", ")}` : "More";
}

function Choice({ field, label, scenario, change }: Setter & { field: Words; label: string }): ReactNode {
  const options = useCanvas((state) => state.catalogue)?.choices[field] ?? [];
  return <label>{label}<Select label={label} value={scenario[field] ?? usual(field)} options={options} onChange={(value) => change({ [field]: value })} /></label>;
}

const usual = (field: Words): string => (field in USUAL ? USUAL[field as Exclude<Words, "dtype" | "optimizer">] : "");

interface CountProps extends Setter {
  field: Numbers;
  label: string;
  least: number;
  next(value: number, direction: 1 | -1, large: boolean): number;
}

function Count({ field, label, least, next, scenario, change }: CountProps): ReactNode {
  return (
    <Stepped
      label={label} value={scenario[field] ?? (field === "generate" ? GENERATED : USUAL[field])} next={next}
      onCommit={(value) => { if (typeof value === "number") change({ [field]: Math.max(least, Math.round(value)) }); }}
    />
  );
}

const stepped = (value: number, direction: 1 | -1): number => Math.max(1, value + direction);
/** 0, 8, 16, 32, …: none, and then powers of two. */
const ranks = (value: number, direction: 1 | -1): number => (direction > 0 ? Math.max(8, value * 2) : value <= 8 ? 0 : Math.floor(value / 2));
const doubled = (value: number, direction: 1 | -1): number => (direction > 0 ? value * 2 : Math.max(1, Math.floor(value / 2)));

export function Resources(): ReactNode {
  const catalogue = useCanvas((state) => state.catalogue);
  const [scenario, change] = useScenario();
  const mode = scenario.mode ?? "train";
  const cards = (catalogue?.cards ?? []).map((card) => ({ value: card.id, label: card.title }));
  const { modes, tokens } = useCanvas((state) => state.purpose);
  const generates = modes.includes("decode");
  const offered = modes.map((value) => ({ value, label: value === "prefill" && !generates ? "Infer" : MODES[value] }));
  const atLeastOne = (value: number | string) => (typeof value === "number" ? Math.max(1, Math.round(value)) : null);
  return (
    <div className="cv-scroll cp-inside">
      <div className="cp-scenario">
        <Segments label="What is run" value={mode} options={offered} onChange={(next) => change({ mode: next })} />
        <Select label="Card" value={scenario.hardware ?? ""} options={cards} onChange={(hardware) => change({ hardware })} />
        <div className="cp-pair">
          <Stepped
            label="Batch" value={scenario.batch ?? 1} next={(value, direction, large) => Math.max(1, value + direction * (large ? 10 : 1))}
            onCommit={(value) => { const batch = atLeastOne(value); if (batch) change({ batch }); }}
          />
          {tokens && (
            <Stepped
              label={mode === "decode" ? "Context" : "Sequence"} value={scenario.sequence ?? 1} next={doubled}
              onCommit={(value) => { const sequence = atLeastOne(value); if (sequence) change({ sequence }); }}
            />
          )}
        </div>
        <div className="cp-pair">
          <Choice field="dtype" label="Type" scenario={scenario} change={change} />
          {mode === "train" && <Choice field="optimizer" label="Optimizer" scenario={scenario} change={change} />}
          {mode === "chat" && <Count field="generate" label="Generated" least={1} next={doubled} scenario={scenario} change={change} />}
        </div>
        <details className="cp-more" data-testid="more-scenario">
          <summary>{chosen(scenario, mode)}</summary>
          <div className="cp-pair">
            <Choice field="attention" label="Attention" scenario={scenario} change={change} />
            <Choice field="weights" label="Weights" scenario={scenario} change={change} />
            {mode === "train" ? (
              <>
                <Choice field="recompute" label="Recompute" scenario={scenario} change={change} />
                <Choice field="loss" label="Loss" scenario={scenario} change={change} />
                <Choice field="implementation" label="Update" scenario={scenario} change={change} />
                <Count field="accumulation" label="Batches a step" least={1} next={stepped} scenario={scenario} change={change} />
                <Count field="lora" label="LoRA rank" least={0} next={ranks} scenario={scenario} change={change} />
              </>
            ) : generates && (
              <>
                <Choice field="cache" label="Cache" scenario={scenario} change={change} />
                <Count field="page" label="Tokens a page" least={0} next={ranks} scenario={scenario} change={change} />
              </>
            )}
          </div>
        </details>
      </div>
      <Costs mode={mode} />
    </div>
  );
}

interface SteppedProps {
  label: string;
  value: number;
  next(value: number, direction: 1 | -1, large: boolean): number;
  onCommit(value: number | string): void;
}

function Stepped({ label, value, next, onCommit }: SteppedProps): ReactNode {
  return (
    <div className="cp-stepped">
      <span aria-hidden="true">{label}</span>
      <button type="button" tabIndex={-1} aria-label={`${label}: less`} onClick={() => onCommit(next(value, -1, false))}>−</button>
      <NumberInput label={label} value={value} next={next} live onCommit={onCommit} />
      <button type="button" tabIndex={-1} aria-label={`${label}: more`} onClick={() => onCommit(next(value, 1, false))}>+</button>
    </div>
  );
}

function Costs({ mode }: { mode: NonNullable<Scenario["mode"]> }): ReactNode {
  const { totals, last } = useLastTotals();
  const obstacle = useObstacle();
  const live = totals?.device_total != null;
  return (
    <div className={live ? "cp-costs" : "cp-costs cp-stale"} data-testid="costs">
      <Donut parts={last?.memory ?? []} total={last?.device_total ?? null} capacity={totals?.nominal ?? null} />
      {live ? <Verdict totals={totals} /> : <p className="cp-verdict"><Icon name="note" size={14} />{obstacle}</p>}
      {last && <Numbers totals={live ? totals : last} mode={mode} />}
    </div>
  );
}

/** `an A100`, `a B200`: by how the first letter, or the digit, is said. */
const article = (card: string): string => (/^([AEFHILMNORSX](?=[A-Z0-9])|[AEIO]|8)/.test(card) ? "an" : "a");

function Verdict({ totals }: { totals: Totals }): ReactNode {
  const spare = totals.capacity - (totals.device_total ?? 0);
  return totals.fits ? (
    <p className="cp-verdict" data-fits="true"><Icon name="check" size={14} />Fits, {bytes(Math.max(0, spare))} to spare</p>
  ) : (
    <p className="cp-verdict" data-fits="false"><Icon name="error" size={14} />Needs {bytes(Math.max(0, -spare))} more than {article(totals.card)} {totals.card} has</p>
  );
}

function Numbers({ totals, mode }: { totals: Totals; mode: NonNullable<Scenario["mode"]> }): ReactNode {
  const { modes, tokens } = useCanvas((state) => state.purpose);
  const whole = modes.includes("decode") ? "prompt" : "batch";
  const per = { train: "step", prefill: whole, decode: "token", chat: "chat" }[mode];
  const sparse = totals.active !== null && totals.active !== totals.parameters;
  const facts: [string, string | null][] = [
    ["Parameters", totals.parameters === null ? null : count(totals.parameters)],
    ...(sparse ? ([["Active", count(totals.active!)]] as [string, string][]) : []),
    [`FLOPs / ${per}`, totals.flops === null ? null : flops(totals.flops)],
    [`Time / ${per}`, totals.time_s === null ? null : seconds(totals.time_s)],
    [tokens ? "Tokens / s" : "Patches / s", totals.tokens_per_s === null ? null : rate(totals.tokens_per_s)],
    ["Bound by", totals.bound],
  ];
  return (
    <dl className="cp-facts" title="By the roofline: each kernel takes as long as its arithmetic, its traffic or its launch">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value ?? "–"}</dd>
        </div>
      ))}
    </dl>
  );
}
