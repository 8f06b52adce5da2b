/** Where everything stands: positions by people, by the layout and under the pointer, put together. Derived, and kept while nothing changed. */
import { create } from "zustand";

import { FRAME } from "../layout/types";
import type { NodeView } from "../protocol";
import { useCanvas } from "../store";
import { sizeOf } from "./measure";
import { useView, type Layout, type XY } from "./view";

/** A node with its place: within its frame, and on the canvas as a whole. */
export interface Placed {
  node: NodeView;
  x: number;
  y: number;
  left: number;
  top: number;
  width: number;
  height: number;
  /** How many frames it is in. */
  depth: number;
}

export interface Scene {
  /** Frames before what is in them. */
  all: Placed[];
  byPath: ReadonlyMap<string, Placed>;
}

export interface Bounds {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

const EMPTY: Scene = { all: [], byPath: new Map() };

/** The scene of what is shown now. */
export const useScene = create<{ scene: Scene }>(() => ({ scene: EMPTY }));
export const scene = (): Scene => useScene.getState().scene;

/** Names what is shown: a document's level. Another document is not the same level changed. */
export function levelKey(): string {
  const { origin, path } = useCanvas.getState();
  return `${origin}\n${path}`;
}

/** Keep the scene up to date from now on; gives what ends that. */
export function followScene(): () => void {
  const refresh = () => {
    const { nodes, order } = useCanvas.getState();
    const { layout, drafts } = useView.getState();
    const before = scene();
    const now = layout && layout.level === levelKey() ? sceneOf(nodes, order, layout, drafts, before) : EMPTY;
    if (now !== before) useScene.setState({ scene: now });
  };
  const ends = [
    useCanvas.subscribe((now, before) => {
      if (now.path !== before.path || now.origin !== before.origin || now.order !== before.order) refresh();
      else if (now.nodes !== before.nodes) {
        const patched = renewed(scene(), now.nodes);
        if (patched) useScene.setState({ scene: patched });
        else refresh();
      }
    }),
    useView.subscribe((now, before) => {
      if (now.layout !== before.layout) refresh();
      else if (now.drafts !== before.drafts) {
        const patched = moved(scene(), now.drafts, before.drafts);
        if (patched) useScene.setState({ scene: patched });
        else refresh();
      }
    }),
  ];
  refresh();
  return () => ends.forEach((end) => end());
}

/** Put the scene together. Places that did not change keep their identity. */
function sceneOf(nodes: ReadonlyMap<string, NodeView>, order: readonly string[], layout: Layout, drafts: ReadonlyMap<string, XY>, before: Scene): Scene {
  const known = order.length >= nodes.size ? order.flatMap((path) => nodes.get(path) ?? []) : [...nodes.values()];
  const depths = depthsOf(nodes);
  if (depths.size) known.sort((a, b) => (depths.get(a.path) ?? 0) - (depths.get(b.path) ?? 0));
  const spots = new Map<string, { x: number; y: number; width: number; height: number }>();
  for (const node of known) {
    const laid = layout.places.get(node.path);
    if (!laid) continue; // came just now: the layout is under way
    const draft = drafts.get(node.path);
    // A card keeps the width that it was laid out with: texts change with values, and nothing is to move for that.
    const own = node.kind === "frame" ? laid : { width: laid.width, height: sizeOf(node).height };
    spots.set(node.path, {
      x: draft?.x ?? node.position?.[0] ?? laid.x, y: draft?.y ?? node.position?.[1] ?? laid.y, width: own.width, height: own.height,
    });
  }
  for (let index = known.length - 1; index >= 0; index--) stretch(known[index]!, spots, nodes, layout);
  const all: Placed[] = [];
  const byPath = new Map<string, Placed>();
  for (const node of known) {
    const spot = spots.get(node.path);
    if (!spot) continue;
    const frame = node.parent ? byPath.get(node.parent) : undefined;
    const placed: Placed = {
      node, ...spot, left: (frame?.left ?? 0) + spot.x, top: (frame?.top ?? 0) + spot.y, depth: frame ? frame.depth + 1 : 0,
    };
    const old = before.byPath.get(node.path);
    const kept = old && alike(old, placed) ? old : placed;
    byPath.set(node.path, kept);
    all.push(kept);
  }
  return { all, byPath };
}

/** The scene with new values in it, such as a slider's: nothing moves. Nothing where something would. */
function renewed(before: Scene, nodes: ReadonlyMap<string, NodeView>): Scene | null {
  if (nodes.size !== before.all.length) return null;
  const changes = new Map<string, Placed>();
  for (const placed of before.all) {
    const node = nodes.get(placed.node.path);
    if (node === placed.node) continue;
    if (!node || node.kind !== placed.node.kind || node.parent !== placed.node.parent || !samePosition(node, placed.node)) return null;
    if (sizeOf(node).height !== sizeOf(placed.node).height) return null;
    changes.set(node.path, { ...placed, node });
  }
  return patch(before, changes);
}

const samePosition = (a: NodeView, b: NodeView) => a.position?.[0] === b.position?.[0] && a.position?.[1] === b.position?.[1];

function patch(before: Scene, changes: ReadonlyMap<string, Placed>): Scene {
  if (!changes.size) return before;
  const byPath = new Map(before.byPath);
  for (const [path, placed] of changes) byPath.set(path, placed);
  return { all: before.all.map((placed) => changes.get(placed.node.path) ?? placed), byPath };
}

/** The scene after a step of a drag: where only cards move that are in no frame, all the rest stays as it is. */
function moved(before: Scene, drafts: ReadonlyMap<string, XY>, old: ReadonlyMap<string, XY>): Scene | null {
  const changes = new Map<string, Placed>();
  for (const [path, { x, y }] of drafts) {
    const placed = before.byPath.get(path);
    if (!placed || old.get(path)?.x === x && old.get(path)?.y === y) continue;
    if (placed.depth || placed.node.kind === "frame") return null;
    changes.set(path, { ...placed, x, y, left: x, top: y });
  }
  for (const path of old.keys()) if (!drafts.has(path)) return null;
  return patch(before, changes);
}

const alike = (a: Placed, b: Placed) =>
  a.node === b.node && a.x === b.x && a.y === b.y && a.left === b.left && a.top === b.top && a.width === b.width && a.height === b.height && a.depth === b.depth;

function depthsOf(nodes: ReadonlyMap<string, NodeView>): Map<string, number> {
  const depths = new Map<string, number>();
  for (const node of nodes.values()) {
    let depth = 0;
    for (let at = node.parent; at && nodes.has(at) && depth < 100; at = nodes.get(at)!.parent) depth++;
    if (depth) depths.set(node.path, depth);
  }
  return depths;
}

/** A frame reaches around what was moved in it. */
function stretch(node: NodeView, spots: Map<string, { x: number; y: number; width: number; height: number }>, nodes: ReadonlyMap<string, NodeView>, layout: Layout): void {
  const frame = node.parent;
  const spot = spots.get(node.path);
  const around = frame ? spots.get(frame) : undefined;
  const laid = layout.places.get(node.path);
  if (!spot || !around || !laid || !frame || nodes.get(frame)?.kind !== "frame") return;
  if (spot.x === laid.x && spot.y === laid.y && spot.width === laid.width && spot.height === laid.height) return;
  around.width = Math.max(around.width, spot.x + spot.width + FRAME.side);
  around.height = Math.max(around.height, spot.y + spot.height + FRAME.bottom);
}

export function boundsOf(scene: Scene, paths?: Iterable<string>): Bounds | null {
  const chosen = paths ? [...paths].flatMap((path) => scene.byPath.get(path) ?? []) : scene.all;
  if (!chosen.length) return null;
  const bounds: Bounds = { left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity };
  for (const { left, top, width, height } of chosen) {
    bounds.left = Math.min(bounds.left, left);
    bounds.top = Math.min(bounds.top, top);
    bounds.right = Math.max(bounds.right, left + width);
    bounds.bottom = Math.max(bounds.bottom, top + height);
  }
  return bounds;
}

/** The innermost frame at a point, and the point in its coordinates. */
export function frameAt(scene: Scene, level: string, point: XY): { frame: string; x: number; y: number } {
  let found: Placed | null = null;
  for (const placed of scene.all) {
    if (placed.node.kind !== "frame" || !holds(placed, point)) continue;
    if (!found || placed.depth > found.depth) found = placed;
  }
  return found ? { frame: found.node.path, x: point.x - found.left, y: point.y - found.top } : { frame: level, x: point.x, y: point.y };
}

/** The card at a point; without one, the frame whose header is there. */
export function nodeAt(scene: Scene, point: XY): Placed | null {
  for (let index = scene.all.length - 1; index >= 0; index--) {
    const placed = scene.all[index]!;
    if (!holds(placed, point)) continue;
    if (placed.node.kind !== "frame" || point.y < placed.top + FRAME.head) return placed;
  }
  return null;
}

const holds = ({ left, top, width, height }: Placed, { x, y }: XY) => x >= left && x <= left + width && y >= top && y <= top + height;
