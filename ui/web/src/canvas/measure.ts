/** How large a card is and where its ports are: a pure function of what it shows, so that nothing mounts to be measured. */
import { FRAME, portX } from "../layout/types";
import type { NodeView, Variant } from "../protocol";

/** Heights of a card's parts, in pixels; the style sheet gets them as variables. */
export const PART = { ports: 15, head: 32, detail: 20, field: 26, strip: 14, variant: 22, foot: 8 };
export const PORT = 10;

/** Rows of variants shown before "and 3 more". */
export const MOST_VARIANTS = 6;

const LEAST = 116;
const MOST = 312;

/** Width of a character at 12 px: exact for mono; sans by kind of letter, and on the wide side. */
const MONO = 7.3;
const sans = (text: string): number =>
  [...text].reduce((sum, letter) => sum + (/[A-Zmw→×]/.test(letter) ? 8.8 : /[ijltfr.,:' ()[\]]/.test(letter) ? 4 : 6.8), 0);

export interface Size {
  width: number;
  height: number;
}

const sizes = new WeakMap<NodeView, Size>();

/** Frames get their size from what is in them: this is the least they need. */
export function sizeOf(node: NodeView): Size {
  const known = sizes.get(node);
  if (known) return known;
  const size = node.kind === "frame" ? { width: frameWidth(node), height: 120 } : { width: width(node), height: height(node) };
  sizes.set(node, size);
  return size;
}

/** What stands beside the id, unless it only says the id again. */
export function besideId(node: NodeView): string {
  const plain = (text: string) => text.toLowerCase().replace(/[^a-z0-9]/g, "");
  return plain(node.title) === plain(node.id) ? "" : node.title;
}

export const fieldsOf = (node: NodeView) => node.fields ?? [];

/** All of a stack's variants; where they are many, those that differ from the default. */
export function shownVariants(node: NodeView): Variant[] {
  const all = node.variants ?? [];
  return (all.length > MOST_VARIANTS ? all.filter(({ label }) => label) : all).slice(0, MOST_VARIANTS);
}

const variantRows = (node: NodeView) => shownVariants(node).length + Number((node.variants ?? []).length > shownVariants(node).length);

/** Whether there is anything beneath the head. */
export const hasBody = (node: NodeView) => Boolean(node.detail) || fieldsOf(node).length > 0 || variantRows(node) > 0;

function frameWidth(node: NodeView): number {
  return Math.max(260, Math.ceil(node.id.length * MONO + sans(node.title) + sans(node.detail) + 200));
}

function width(node: NodeView): number {
  // A problem shows on the card's corner: it comes and goes and must not move anything.
  const badges = (node.linked ? 42 : 0) + (node.enter ? 26 : 0) + (node.kind === "use" ? 26 : 0) + (node.repeat ? 46 : 0);
  const title = besideId(node);
  const head = 34 + node.id.length * MONO + (title ? 14 + sans(title) : 0) + badges;
  const detail = 28 + sans(node.detail);
  const fields = fieldsOf(node).map((field) => 26 + sans(field.label) + (field.kind === "flag" ? 48 : field.minimum != null ? 146 : 118));
  const variants = (node.variants ?? []).length ? 250 : 0;
  const ports = Math.max(portRow(node, "target"), portRow(node, "source"));
  const wanted = Math.max(head, detail, ports, variants, ...fields);
  return Math.min(MOST, Math.max(LEAST, Math.ceil(wanted / 4) * 4));
}

/** The room that the ports' names need beside one another. */
function portRow(node: NodeView, type: PortSpot["type"]): number {
  const ports = type === "target" ? node.inputs : node.outputs;
  if (ports.length < 2) return 0;
  const halves = ports.map((port) => port.name.length * 2.9 + 4);
  const needed = halves.slice(1).map((half, index) => (half + halves[index]!) / (portAt(node, type, index + 1) - portAt(node, type, index)));
  return Math.max(...needed, halves.at(-1)! / (1 - portAt(node, type, ports.length - 1)), halves[0]! / portAt(node, type, 0));
}

/** Whether the first of several ports is what flows through a block or stack; the others are asides. */
const leads = (node: NodeView, type: PortSpot["type"]) => type === "target" && node.inputs.length > 1 && through(node);
export const through = (node: NodeView) => node.kind === "use" || node.kind === "stack" || node.kind === "frame";

/** How far along its edge a port is: evenly spread; what flows through a block enters in the middle, asides to its right. */
export function portAt(node: NodeView, type: PortSpot["type"], index: number): number {
  const count = (type === "target" ? node.inputs : node.outputs).length || 1;
  if (leads(node, type)) return 0.5 + (index * 0.42) / Math.max(count - 1, 2);
  return (Math.max(index, 0) + 0.5) / count;
}

/** The same, by the port's name. */
export const portNamed = (node: NodeView, type: PortSpot["type"], name: string): number =>
  portAt(node, type, Math.max(0, (type === "target" ? node.inputs : node.outputs).findIndex((port) => port.name === name)));


function height(node: NodeView): number {
  let sum = PART.head;
  if (node.inputs.length > 1) sum += PART.ports - 5;
  if (node.outputs.length > 1) sum += PART.ports;
  if (node.detail) sum += PART.detail;
  sum += fieldsOf(node).length * PART.field;
  const rows = variantRows(node);
  if (rows) sum += PART.strip + rows * PART.variant;
  if (hasBody(node)) sum += PART.foot;
  return sum;
}

export interface PortSpot {
  id: string;
  type: "source" | "target";
  /** Its middle, from the card's left edge. */
  x: number;
  /** Its middle, from the card's top edge. */
  y: number;
}

/** A card's ports: inputs along the top edge, outputs along the bottom one. */
export function spotsOf(node: NodeView, size: Size): PortSpot[] {
  return [
    ...node.inputs.map((port, index): PortSpot => ({ id: port.name, type: "target", x: portX(size.width, portAt(node, "target", index)), y: 0 })),
    ...node.outputs.map((port, index): PortSpot => ({ id: port.name, type: "source", x: portX(size.width, portAt(node, "source", index)), y: size.height })),
  ];
}

/** For the style sheet. */
export const MEASURES = Object.fromEntries([
  ...Object.entries(PART).map(([name, value]) => [`--part-${name}`, `${value}px`]),
  ["--port", `${PORT}px`],
  ["--frame-head", `${FRAME.head}px`],
]) as React.CSSProperties;
