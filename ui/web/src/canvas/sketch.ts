/** The level in a few strokes, for the 2-D canvases: built once, drawn as often as the view moves. */
import type { WireView } from "../protocol";
import { hottest, runsOf } from "./elements";
import { pointsOf } from "./route";
import type { Scene } from "./scene";
import type { Colouring, Layout } from "./view";

const STEPS = 6;
const GROUPS = ["io", "embedding", "position", "attention", "norm", "mlp", "moe", "arithmetic", "shape", "block", "stack"];

export interface Sketch {
  /** By colour: a group, or how hot by the metric. */
  cards: Map<string, Path2D>;
  frames: Path2D;
  errors: Path2D;
  warnings: Path2D;
  wires: Path2D;
  bad: Path2D;
}

export function sketch(scene: Scene, wires: Iterable<WireView>, layout: Layout | null, colouring: Colouring): Sketch {
  const drawn: Sketch = { cards: new Map(), frames: new Path2D(), errors: new Path2D(), warnings: new Path2D(), wires: new Path2D(), bad: new Path2D() };
  const most = colouring === "group" ? 0 : hottest(scene, colouring);
  for (const { node, left, top, width, height } of scene.all) {
    if (node.severity === "error") drawn.errors.rect(left, top, width, height);
    else if (node.severity === "warning") drawn.warnings.rect(left, top, width, height);
    if (node.kind === "frame") {
      drawn.frames.rect(left, top, width, height);
      continue;
    }
    const heat = colouring === "group" ? 0 : Math.sqrt((node.share?.[colouring] ?? 0) / (most || 1));
    const colour = colouring === "group" ? node.group : `heat${Math.round(heat * STEPS)}`;
    let path = drawn.cards.get(colour);
    if (!path) drawn.cards.set(colour, (path = new Path2D()));
    path.rect(left, top, width, height);
  }
  if (!layout) return drawn;
  for (const wire of wires) {
    const source = scene.byPath.get(wire.source.path);
    const target = scene.byPath.get(wire.target.path);
    if (!source || !target) continue;
    const route = layout.routes.get(wire.id);
    const points = pointsOf(runsOf(wire, scene, source, target, route, route?.frame ? scene.byPath.get(route.frame) : undefined));
    const path = wire.bad ? drawn.bad : drawn.wires;
    path.moveTo(points[0]!, points[1]!);
    for (let at = 2; at < points.length; at += 2) path.lineTo(points[at]!, points[at + 1]!);
  }
  return drawn;
}

/** The theme's colours, for drawing. */
export interface Inks {
  cards: Map<string, string>;
  edges: Map<string, string>;
  frame: string;
  frameLine: string;
  wire: string;
  ink: string;
  ink2: string;
  bad: string;
  warn: string;
  accent: string;
}

export function inks(element: Element): Inks {
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const surface = colour("--surface");
  const cards = new Map<string, string>();
  const edges = new Map<string, string>();
  for (const group of GROUPS) {
    cards.set(group, mixed(colour(`--g-${group}`), surface, 0.24));
    edges.set(group, mixed(colour(`--g-${group}`), surface, 0.7));
  }
  for (let step = 0; step <= STEPS; step++) {
    cards.set(`heat${step}`, mixed(colour("--heat-ink"), surface, 0.03 + (step / STEPS) * 0.62));
    edges.set(`heat${step}`, mixed(colour("--heat-ink"), surface, 0.3 + (step / STEPS) * 0.6));
  }
  return {
    cards, edges, frame: mixed(colour("--g-block"), colour("--ground"), 0.06), frameLine: mixed(colour("--g-block"), colour("--ground"), 0.4),
    wire: mixed(colour("--ink-3"), colour("--ground"), 0.62), ink: colour("--ink"), ink2: colour("--ink-2"), bad: colour("--bad"), warn: colour("--warn"), accent: colour("--accent"),
  };
}

/** `#rrggbb` of two colours, the first at a part of one. */
function mixed(one: string, other: string, part: number): string {
  const long = (text: string) => (text.length < 7 ? text.replace(/[0-9a-f]/gi, "$&$&") : text); // `#fff`, as style sheets are shortened
  const parse = (text: string) => [1, 3, 5].map((at) => parseInt(long(text).slice(at, at + 2), 16) || 0);
  const [a, b] = [parse(one), parse(other)];
  return `#${a.map((value, index) => Math.round(value * part + b[index]! * (1 - part)).toString(16).padStart(2, "0")).join("")}`;
}
