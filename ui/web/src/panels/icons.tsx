/** Icons: strokes on a 16 px square, in the colour of the text beside them. */
import type { ReactNode } from "react";

const PATHS = {
  open: "M2 12.5V4a1 1 0 0 1 1-1h3l1.5 2H12a1 1 0 0 1 1 1v1M2 12.5 4.2 7.6A1 1 0 0 1 5.1 7H14a.6.6 0 0 1 .5.8l-1.8 4.6a1 1 0 0 1-.9.6H2.5a.5.5 0 0 1-.5-.5Z",
  save: "M8 2v8m0 0L4.8 6.8M8 10l3.2-3.2M2.5 10.5V13a.5.5 0 0 0 .5.5h10a.5.5 0 0 0 .5-.5v-2.5",
  undo: "M5.5 3 2.5 6l3 3M2.8 6H10a3.5 3.5 0 0 1 0 7H6.5",
  redo: "M10.5 3l3 3-3 3M13.2 6H6a3.5 3.5 0 0 0 0 7h3.5",
  search: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9ZM10.3 10.3 14 14",
  keys: "M6.1 6.1a2 2 0 1 1 2.9 1.8c-.7.4-1 .8-1 1.6M8 11.6v.1M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13Z",
  left: "M3 2.5h10a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H3a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1ZM6 2.5v11",
  right: "M3 2.5h10a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H3a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1ZM10 2.5v11",
  down: "M4 6.2 8 10l4-3.8",
  up: "M8 13V3.5M8 3.5 4 7.4M8 3.5l4 3.9",
  close: "m4 4 8 8M12 4l-8 8",
  check: "m3.5 8.5 3 3 6-7",
  error: "M8 14.2a6.2 6.2 0 1 0 0-12.4 6.2 6.2 0 0 0 0 12.4ZM8 5v3.6M8 10.9v.1",
  warning: "M8 2.2 14.4 13a.4.4 0 0 1-.4.7H2a.4.4 0 0 1-.4-.7L8 2.2ZM8 6.4v3.2M8 11.6v.1",
  note: "M8 14.2a6.2 6.2 0 1 0 0-12.4 6.2 6.2 0 0 0 0 12.4ZM8 7.4V11M8 5.1V5",
  enter: "M9 2.5h3.5a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H9M2.5 8H9m0 0L6.2 5.2M9 8l-2.8 2.8",
  trash: "M2.5 4.2h11M6 4V2.5h4V4M3.8 4.5l.6 8.6a.5.5 0 0 0 .5.4h6.2a.5.5 0 0 0 .5-.4l.6-8.6M6.5 7v4M9.5 7v4",
  copy: "M6 5.5h7a.5.5 0 0 1 .5.5v7.5a.5.5 0 0 1-.5.5H6a.5.5 0 0 1-.5-.5V6a.5.5 0 0 1 .5-.5ZM3 10.5a.5.5 0 0 1-.5-.5V2.5A.5.5 0 0 1 3 2h6.5a.5.5 0 0 1 .5.5V3",
  group: "M2.5 4.5v-2h2M11.5 2.5h2v2M13.5 11.5v2h-2M4.5 13.5h-2v-2M5 5h4v4H5zM9 7h2v4H7V9",
  ungroup: "M2.5 2.5h5v5h-5zM8.5 8.5h5v5h-5zM10 6l2-2m0 0h-2m2 0v2",
  plus: "M8 3v10M3 8h10",
  upload: "M8 10.5V3m0 0L4.8 6.2M8 3l3.2 3.2M2.5 10.5V13a.5.5 0 0 0 .5.5h10a.5.5 0 0 0 .5-.5v-2.5",
  blank: "M4 1.8h5.5L13 5.3v8.4a.5.5 0 0 1-.5.5h-8.5a.5.5 0 0 1-.5-.5V2.3a.5.5 0 0 1 .5-.5ZM9.2 2v3.6h3.6",
  skeleton: "M8 2 2.5 4.8 8 7.6l5.5-2.8L8 2ZM2.5 8 8 10.8 13.5 8M2.5 11.2 8 14l5.5-2.8",
  offline: "M4.6 12.5a3 3 0 0 1-.4-6 4 4 0 0 1 1-2M7 3.2A4 4 0 0 1 11.8 6.5a3 3 0 0 1 1.5 5.3M2.5 2.5l11 11",
  link: "M6.8 9.2a2.6 2.6 0 0 0 3.7 0l2.2-2.2A2.6 2.6 0 0 0 9 3.3l-.9.9M9.2 6.8a2.6 2.6 0 0 0-3.7 0L3.3 9A2.6 2.6 0 0 0 7 12.7l.9-.9",
  paper: "M3.5 2h9a.5.5 0 0 1 .5.5v11a.5.5 0 0 1-.5.5h-9a.5.5 0 0 1-.5-.5v-11a.5.5 0 0 1 .5-.5ZM5.5 5h5M5.5 8h5M5.5 11h3",
  expand: "M6 2.5H2.5V6M10 2.5h3.5V6M10 13.5h3.5V10M6 13.5H2.5V10",
  collapse: "M2.5 6H6V2.5M13.5 6H10V2.5M13.5 10H10v3.5M2.5 10H6v3.5",
  minus: "M3.5 8h9",
  fit: "M2.5 5.5v-3h3M10.5 2.5h3v3M13.5 10.5v3h-3M5.5 13.5h-3v-3M6 6.5h4v3H6z",
  arrange: "M5.5 2.5h5v3h-5zM2 10.5h4.5v3H2zM9.5 10.5H14v3H9.5zM8 5.5V8M4.2 10.5V8h7.6v2.5",
  shapes: "M4.8 2.5h-2v11h2M11.2 2.5h2v11h-2M6 10.5h.1M10 10.5h.1M8 10.5h.1",
  chevron: "m6 3.5 4.5 4.5L6 12.5",
  map: "M2.5 3.5h11v9h-11zM7.5 7.5h6v5h-6z",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 16 }: { name: IconName; size?: number }): ReactNode {
  return (
    <svg
      className="cv-icon" width={size} height={size} viewBox="0 0 16 16" fill="none" stroke="currentColor" strokeWidth={1.4}
      strokeLinecap="round" strokeLinejoin="round" aria-hidden="true"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The product's mark: nodes in a frame, wired. */
export function Mark(): ReactNode {
  return (
    <svg width="22" height="22" viewBox="0 0 22 22" aria-hidden="true">
      <rect width="22" height="22" rx="6" fill="var(--accent)" />
      <path d="M7 7.2h3.4c1.6 0 1.6 7.6 3.2 7.6H15M7 14.8h3" fill="none" stroke="var(--accent-ink)" strokeWidth="1.5" strokeLinecap="round" />
      <circle cx="6.4" cy="7.2" r="1.9" fill="var(--accent-ink)" />
      <circle cx="6.4" cy="14.8" r="1.9" fill="var(--accent-ink)" />
      <circle cx="15.6" cy="14.8" r="1.9" fill="var(--accent-ink)" />
    </svg>
  );
}
