/** Lay the level out whenever its structure changed, and only then; keep in place what can stay. */
import { layOut } from "../layout/client";
import type { Answer, Box, Link, Place, Route, Task } from "../layout/types";
import type { NodeView, WireView } from "../protocol";
import { useCanvas, type State } from "../store";
import { portNamed, sizeOf, through } from "./measure";
import { levelKey } from "./scene";
import { useView, type Layout } from "./view";

type Nodes = State["nodes"];
type Wires = State["wires"];

/** Nodes above which a new layout is shown at once: moving them all would stutter. */
const MOST_MOVING = 400;
export const MOVING_MS = 240;

let asked = { level: "", nodes: new Map() as Nodes, wires: new Map() as Wires };
let turn = 0;
let resting: ReturnType<typeof setTimeout> | undefined;

/** Keep laying out from now on; gives what ends that. */
export function followLayout(): () => void {
  refresh();
  return useCanvas.subscribe((now, before) => {
    if (now.nodes !== before.nodes || now.wires !== before.wires || now.path !== before.path || now.origin !== before.origin) refresh();
  });
}

function refresh(): void {
  const { nodes, wires, revision } = useCanvas.getState();
  if (revision < 0) return;
  const level = levelKey();
  const again = asked.level === level && useView.getState().layout?.level === level;
  const same = again && sameNodes(asked.nodes, nodes) && sameWires(asked.wires, wires);
  asked = { level, nodes, wires };
  if (!same) void run(level, nodes, wires);
}

/** Lay out again even though nothing changed. */
export function layOutAgain(): void {
  const { nodes, wires } = useCanvas.getState();
  void run(levelKey(), nodes, wires);
}

async function run(level: string, nodes: Nodes, wires: Wires): Promise<void> {
  const mine = ++turn;
  const answer = layOut(taskOf(nodes, wires));
  if (!(answer instanceof Promise)) return show(level, nodes, answer);
  const waiting = setTimeout(() => mine === turn && useView.setState({ busy: true }), 250);
  const found = await answer;
  clearTimeout(waiting);
  // While it was made, the graph may have changed again: that layout is under way.
  if (mine === turn) show(level, nodes, found);
}

function show(level: string, nodes: Nodes, answer: Answer): void {
  const before = useView.getState().layout;
  const places = new Map(Object.entries(answer.places));
  const routes = new Map(Object.entries(answer.routes));
  const again = before?.level === level;
  if (again) holdStill(places, routes, before, nodes);
  const moving = again && places.size <= MOST_MOVING;
  useView.setState({ layout: { level, places, routes }, busy: false, moving, ...(again ? {} : { drafts: new Map() }) });
  clearTimeout(resting);
  if (moving) resting = setTimeout(() => useView.setState({ moving: false }), MOVING_MS + 40);
}

/** A layout begins at 0, 0: move it so that most of what was there before stays where it was. */
function holdStill(places: Map<string, Place>, routes: Map<string, Route>, before: Layout, nodes: Nodes): void {
  const own = [...places].filter(([path]) => !inFrame(nodes, path));
  if (own.some(([path]) => nodes.get(path)?.position)) return;
  const stayed = own.flatMap(([path, place]) => {
    const old = before.places.get(path);
    return old ? [{ x: old.x + old.width / 2 - place.x - place.width / 2, y: old.y - place.y }] : [];
  });
  if (!stayed.length) return;
  const dx = Math.round(median(stayed.map(({ x }) => x)));
  const dy = Math.round(stayed[0]!.y);
  for (const [path, place] of own) places.set(path, { ...place, x: place.x + dx, y: place.y + dy });
  for (const [id, { frame, runs }] of routes) {
    if (frame === null) routes.set(id, { frame, runs: runs.map((value, at) => value + (at % 3 ? dy : dx)) });
  }
}

const inFrame = (nodes: Nodes, path: string) => {
  const parent = nodes.get(path)?.parent;
  return Boolean(parent && nodes.has(parent));
};

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}

function taskOf(nodes: Nodes, wires: Wires): Task {
  const { order } = useCanvas.getState();
  const known = order.length >= nodes.size ? order.flatMap((path) => nodes.get(path) ?? []) : [...nodes.values()];
  const boxes = known.map((node): Box => ({
    id: node.path, parent: node.parent ?? null, ...sizeOf(node), pin: node.position ?? null,
    end: node.kind === "input" ? "first" : node.kind === "output" ? "last" : null,
    through: through(node),
  }));
  const links: Link[] = [];
  for (const wire of wires.values()) {
    const source = nodes.get(wire.source.path);
    const target = nodes.get(wire.target.path);
    if (!source || !target) continue;
    links.push({
      id: wire.id,
      source: { id: source.path, at: portNamed(source, "source", wire.source.port) },
      target: { id: target.path, at: portNamed(target, "target", wire.target.port) },
    });
  }
  return { boxes, links };
}

function sameNodes(before: Nodes, now: Nodes): boolean {
  if (before === now) return true;
  if (before.size !== now.size) return false;
  for (const [path, node] of now) {
    const old = before.get(path);
    if (old !== node && (!old || !sameStructure(old, node))) return false;
  }
  return true;
}

function sameStructure(a: NodeView, b: NodeView): boolean {
  if (a.kind !== b.kind || (a.parent ?? null) !== (b.parent ?? null)) return false;
  if (a.inputs.length !== b.inputs.length || a.outputs.length !== b.outputs.length) return false;
  if (sizeOf(a).height !== sizeOf(b).height) return false;
  // What is moved by hand in a frame makes the frame larger; what goes back to its place needs one.
  const moved = a.position?.[0] !== b.position?.[0] || a.position?.[1] !== b.position?.[1];
  return !moved || (Boolean(b.position) && !b.parent);
}

function sameWires(before: Wires, now: Wires): boolean {
  if (before === now) return true;
  if (before.size !== now.size) return false;
  for (const [id, wire] of now) {
    const old = before.get(id);
    if (old !== wire && (!old || !sameEnds(old, wire))) return false;
  }
  return true;
}

const sameEnds = (a: WireView, b: WireView) =>
  a.source.path === b.source.path && a.source.port === b.source.port && a.target.path === b.target.path && a.target.port === b.target.port;
