/** What the model takes on the card, always in view: the headline, and a bar in the memory's parts. */
import { useRef, type ReactNode } from "react";

import type { Totals } from "../protocol";
import { useCanvas } from "../store";
import { arrange } from "./layout";
import { bytes, plural } from "./numbers";
import { colour } from "./parts";

/** The last totals that had costs: what to show, greyed, while there are none. */
export function useLastTotals(): { totals: Totals | null; last: Totals | null } {
  const totals = useCanvas((state) => state.totals);
  const last = useRef<Totals | null>(null);
  if (totals?.device_total != null) last.current = totals;
  return { totals, last: last.current };
}

/** Why there are no costs. */
export function useObstacle(): string {
  const errors = useCanvas((state) => state.problems.filter((problem) => problem.severity === "error").length);
  const begun = useCanvas((state) => state.totals !== null);
  if (errors) return `Fix ${plural(errors, "problem")} to see the cost`;
  return begun ? "The cost is not known" : "Measuring…";
}

export function Gauge(): ReactNode {
  const { totals, last } = useLastTotals();
  const obstacle = useObstacle();
  const known = totals?.device_total != null;
  const over = known && totals.fits === false;
  return (
    <div className={`cp-gauge${known ? "" : " cp-stale"}${over ? " cp-over" : ""}`} data-testid="gauge">
      {known ? (
        <span className="cp-gauge-text">{totals.headline}</span>
      ) : (
        <button type="button" className="cp-gauge-text" onClick={() => arrange({ left: true, tab: "outline" })}>{obstacle}</button>
      )}
      <Bar totals={last} live={known} />
    </div>
  );
}

function Bar({ totals, live }: { totals: Totals | null; live: boolean }): ReactNode {
  const taken = totals?.device_total ?? 0;
  const capacity = totals?.capacity ?? 1;
  // Where more is needed than there is, the bar is all that is needed and a mark says where the card ends.
  const whole = Math.max(taken, capacity);
  return (
    <div
      className="cp-bar" role="meter" aria-label="Memory of the card" aria-valuemin={0} aria-valuemax={capacity}
      aria-valuenow={Math.min(taken, capacity)} aria-valuetext={live ? `${bytes(taken)} of ${bytes(capacity)}` : "not known"}
    >
      {totals?.memory?.map((part) => (
        <span key={part.name} style={{ width: `${(part.bytes / whole) * 100}%`, background: colour(part) }} title={`${part.name} ${bytes(part.bytes)}`} />
      ))}
      {taken > capacity && <i style={{ left: `${(capacity / whole) * 100}%` }} title={`The card ends here: ${bytes(capacity)}`} />}
    </div>
  );
}
