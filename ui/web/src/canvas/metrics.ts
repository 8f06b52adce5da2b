/** Metrics that cards are tinted by. */
import type { Colouring } from "./view";

export const COLOURINGS: { value: Colouring; label: string }[] = [
  { value: "group", label: "Kind" },
  { value: "parameters", label: "Parameters" },
  { value: "flops", label: "FLOPs" },
  { value: "memory", label: "Memory traffic" },
  { value: "time", label: "Time" },
];

/** A share as people read it: 61 %, 0.4 %, < 0.1 %. */
export function percent(share: number): string {
  const value = share * 100;
  if (value === 0) return "0 %";
  if (value < 0.1) return "< 0.1 %";
  return `${value < 9.95 ? Number(value.toFixed(1)) : Math.round(value)} %`;
}
