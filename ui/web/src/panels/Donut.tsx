/** The memory by part, as a ring with its legend. */
import { useState, type ReactNode } from "react";

import type { Part } from "../protocol";
import { bytes } from "./numbers";
import { colour } from "./parts";

const RADIUS = 42;
const AROUND = 2 * Math.PI * RADIUS;
const GAP = 1.5;

interface Arc {
  part: Part;
  start: number;
  length: number;
}

function arcsOf(parts: Part[]): Arc[] {
  const total = parts.reduce((sum, part) => sum + part.bytes, 0) || 1;
  let start = 0;
  return parts.map((part) => {
    const arc = { part, start, length: (part.bytes / total) * AROUND };
    start += arc.length;
    return arc;
  });
}

export function Donut({ parts, total, capacity }: { parts: Part[]; total: number | null; capacity: number | null }): ReactNode {
  const [pointed, setPointed] = useState<string | null>(null);
  const shown = parts.filter((part) => part.bytes > 0);
  const at = shown.find((part) => part.name === pointed);
  const [number, unit] = (total === null ? "– " : bytes(at ? at.bytes : total)).split(" ");
  return (
    <div className="cp-donut">
      <svg viewBox="0 0 104 104" role="img" aria-label={total === null ? "Memory, not known" : `Memory by part, ${bytes(total)} in all`}>
        <circle cx="52" cy="52" r={RADIUS} className="cp-donut-ground" />
        {arcsOf(shown).map(({ part, start, length }) => (
          <circle
            key={part.name} cx="52" cy="52" r={RADIUS} stroke={colour(part)} data-dim={(pointed !== null && pointed !== part.name) || undefined}
            strokeDasharray={`${Math.max(0.5, length - (shown.length > 1 ? GAP : 0))} ${AROUND}`} strokeDashoffset={-start}
            onPointerEnter={() => setPointed(part.name)} onPointerLeave={() => setPointed(null)}
          />
        ))}
        <text x="52" y="52" className="cp-donut-number">{number}</text>
        <text x="52" y="66" className="cp-donut-unit">{unit}{at || capacity === null ? "" : ` of ${(capacity / 2 ** 30).toFixed(0)}`}</text>
      </svg>
      <ul aria-label="Memory by part">
        {shown.map((part) => (
          <li key={part.name} data-dim={(pointed !== null && pointed !== part.name) || undefined} onPointerEnter={() => setPointed(part.name)} onPointerLeave={() => setPointed(null)}>
            <i style={{ background: colour(part) }} />
            <span title={part.name}>{part.name}</span>
            <b>{bytes(part.bytes)}</b>
          </li>
        ))}
      </ul>
    </div>
  );
}
