/** Icons that only the canvas uses, drawn as those of the panels are. */
import type { ReactNode } from "react";

const PATHS = {
  expand: "M6 2.5H2.5V6M10 2.5h3.5V6M10 13.5h3.5V10M6 13.5H2.5V10",
  collapse: "M2.5 6H6V2.5M13.5 6H10V2.5M13.5 10H10v3.5M2.5 10H6v3.5",
  minus: "M3.5 8h9",
  fit: "M2.5 5.5v-3h3M10.5 2.5h3v3M13.5 10.5v3h-3M5.5 13.5h-3v-3M6 6.5h4v3H6z",
  arrange: "M5.5 2.5h5v3h-5zM2 10.5h4.5v3H2zM9.5 10.5H14v3H9.5zM8 5.5V8M4.2 10.5V8h7.6v2.5",
  shapes: "M4.8 2.5h-2v11h2M11.2 2.5h2v11h-2M6 10.5h.1M10 10.5h.1M8 10.5h.1",
  chevron: "m6 3.5 4.5 4.5L6 12.5",
  map: "M2.5 3.5h11v9h-11zM7.5 7.5h6v5h-6z",
} as const;

export type GlyphName = keyof typeof PATHS;

export function Glyph({ name, size = 16 }: { name: GlyphName; size?: number }): ReactNode {
  return (
    <svg
      className="cv-icon" width={size} height={size} viewBox="0 0 16 16" fill="none" stroke="currentColor" strokeWidth={1.4}
      strokeLinecap="round" strokeLinejoin="round" aria-hidden="true"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}
