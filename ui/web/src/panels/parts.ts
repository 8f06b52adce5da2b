/** Colours of the parts of the memory, the same in the gauge, the donut and the legend whatever the mode is. */
import type { Part } from "../protocol";

const KNOWN: [RegExp, string][] = [
  [/weight|param/i, "--p-weights"],
  [/grad/i, "--p-gradients"],
  [/optim/i, "--p-optimizer"],
  [/activ|temp/i, "--p-activations"],
  [/kv|cache/i, "--p-cache"],
  [/context|cuda|workspace/i, "--p-context"],
];

export const colour = (part: Part): string => `var(${KNOWN.find(([pattern]) => pattern.test(part.name))?.[1] ?? "--p-other"})`;

/** Colour of a group of nodes. Groups are data: one without a colour of its own is grey. */
export const groupColour = (group: string): string => (/^[a-z]+$/.test(group) ? `var(--g-${group}, var(--g-io))` : "var(--g-io)");
