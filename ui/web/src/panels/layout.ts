/** Which panels are open, kept across reloads. */
import { create } from "zustand";

export interface Layout {
  left: boolean;
  right: boolean;
  tab: "palette" | "outline";
  inspector: boolean;
  resources: boolean;
  /** Groups of the palette that are folded. */
  folded: string[];
}

const KEY = "canvas-rt:layout";
const BEGIN: Layout = { left: true, right: true, tab: "palette", inspector: true, resources: true, folded: [] };

function kept(): Partial<Layout> {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return found && typeof found === "object" ? (found as Partial<Layout>) : {};
  } catch {
    return {};
  }
}

/** A narrow window begins with the palette closed: the graph needs the room. */
const narrow = (): Partial<Layout> => (window.innerWidth < 860 ? { left: false } : {});

export const useLayout = create<Layout>(() => ({ ...BEGIN, ...narrow(), ...kept() }));

export function arrange(part: Partial<Layout>): void {
  useLayout.setState(part);
  try {
    localStorage.setItem(KEY, JSON.stringify(useLayout.getState()));
  } catch {
    // A page that may store nothing works all the same.
  }
}
