/** A wire's way: as the layout has it, or, once an end was moved, around whatever stands between. */
import type { Placed, Scene } from "./scene";

/** Vertical runs `x, from y, to y`, joined by curves. */
export type Runs = readonly number[];

const STUB = 14;
const ROOM = 14;

/** The way as an SVG path. */
export function pathOf(runs: Runs): string {
  let path = `M${runs[0]} ${runs[1]}`;
  for (let at = 0; at < runs.length; at += 3) {
    const [x, from, to] = [runs[at]!, runs[at + 1]!, runs[at + 2]!];
    if (at) path += joint(runs[at - 3]!, runs[at - 2]!, runs[at - 1]!, x, from, to);
    if (to !== from) path += `L${x} ${to}`;
  }
  return path;
}

/** How far a joint's ends go on straight: most of the way between rows, so that it bends softly; around a turn, wide. */
function reach(gap: number, sideways: number): number {
  return gap > 12 ? Math.min(gap * 0.62, 34) : Math.min(32, 10 + sideways * 0.3);
}

function joint(x0: number, from0: number, to0: number, x1: number, from1: number, to1: number): string {
  const k = reach(from1 - to0, Math.abs(x1 - x0));
  const down0 = Math.sign(to0 - from0) || 1;
  const down1 = Math.sign(to1 - from1) || 1;
  return `C${x0} ${to0 + down0 * k} ${x1} ${from1 - down1 * k} ${x1} ${from1}`;
}

/** The way as points, for the 2-D canvases. */
export function pointsOf(runs: Runs): number[] {
  const points = [runs[0]!, runs[1]!];
  for (let at = 0; at < runs.length; at += 3) {
    if (at) {
      const middle = (runs[at - 1]! + runs[at + 1]!) / 2;
      if (runs[at - 3] !== runs[at]) points.push(runs[at - 3]!, middle, runs[at]!, middle);
      points.push(runs[at]!, runs[at + 1]!);
    }
    points.push(runs[at]!, runs[at + 2]!);
  }
  return points;
}

/** Where a label stands on the way: in the gap between two rows that is nearest to its end, so that no card is under it. */
export function labelSpot(runs: Runs): { x: number; y: number } {
  const last = runs.length - 3;
  if (last > 0) {
    const [x0, to0, x1, from1] = [runs[last - 3]!, runs[last - 1]!, runs[last]!, runs[last + 1]!];
    return { x: (x0 + x1) / 2, y: (to0 + from1) / 2 };
  }
  return { x: runs[0]!, y: (runs[1]! + runs[2]!) / 2 };
}

/** The layout's way, moved to the frame's place, if both ends are still where it had them; else nothing. */
export function laidRuns(runs: Runs, dx: number, dy: number, x0: number, y0: number, x1: number, y1: number): number[] | null {
  const last = runs.length - 1;
  const near = (a: number, b: number) => Math.abs(a - b) < 1.5;
  if (!near(runs[0]! + dx, x0) || !near(runs[1]! + dy, y0) || !near(runs[last - 2]! + dx, x1) || !near(runs[last]! + dy, y1)) return null;
  return runs.map((value, at) => value + (at % 3 ? dy : dx));
}

/** A way from one port to another that runs beside cards, not through them. */
export function freeRuns(scene: Scene, x0: number, y0: number, x1: number, y1: number, ends: ReadonlySet<string>): number[] {
  const straight = Math.abs(x0 - x1) < 1 && y1 > y0 ? [x0, y0, y1] : null;
  const room = y1 - y0;
  const simple = straight ?? (room >= 6 ? [x0, y0, y0 + Math.min(4, room / 4), x1, y1 - Math.min(4, room / 4), y1] : null);
  const [top, bottom] = [Math.min(y0, y1 - 40), Math.max(y1, y0 + 40)];
  const near = scene.all.filter((placed) => placed.node.kind !== "frame" && placed.top < bottom && placed.top + placed.height > top);
  const others = near.filter((placed) => !ends.has(placed.node.path));
  if (simple && !others.some((placed) => touches(placed, simple))) return simple;
  const lanes = near.flatMap(({ left, width }) => [left - ROOM, left + width + ROOM]);
  lanes.sort((a, b) => detour(a, x0, x1) - detour(b, x0, x1));
  const [from, to] = room >= 4 * STUB ? [y0 + 2 * STUB, y1 - 2 * STUB] : [y0 + STUB, y1 - STUB];
  for (const strict of [true, false]) {
    for (const lane of lanes) {
      const runs = [x0, y0, y0 + 2, lane, from, to, x1, y1 - 2, y1];
      if (!near.some((placed) => inLane(placed, lane, Math.min(from, to), Math.max(from, to))) && !(strict && others.some((placed) => touches(placed, runs)))) return runs;
    }
  }
  return simple ?? [x0, y0, y0 + 2, lanes[0] ?? x0, from, to, x1, y1 - 2, y1];
}

const detour = (lane: number, x0: number, x1: number) => Math.abs(lane - x0) + Math.abs(lane - x1);
const inLane = ({ left, top, width, height }: Placed, lane: number, from: number, to: number) =>
  lane > left - 5 && lane < left + width + 5 && top < to && top + height > from;

/** Whether a way crosses a card: along its runs, and at points of its curves. */
function touches(placed: Placed, runs: Runs): boolean {
  for (let at = 0; at < runs.length; at += 3) {
    if (inLane(placed, runs[at]!, Math.min(runs[at + 1]!, runs[at + 2]!), Math.max(runs[at + 1]!, runs[at + 2]!))) return true;
    if (!at) continue;
    const [x0, y0, x1, y1] = [runs[at - 3]!, runs[at - 1]!, runs[at]!, runs[at + 1]!];
    const k = reach(y1 - y0, Math.abs(x1 - x0));
    for (let t = 0.1; t < 1; t += 0.1) {
      const s = 1 - t;
      const x = (s * s * s + 3 * s * s * t) * x0 + (t * t * t + 3 * s * t * t) * x1;
      const y = s * s * s * y0 + 3 * s * s * t * (y0 + k) + 3 * s * t * t * (y1 - k) + t * t * t * y1;
      if (x > placed.left - 3 && x < placed.left + placed.width + 3 && y > placed.top - 3 && y < placed.top + placed.height + 3) return true;
    }
  }
  return false;
}
