/** Lay out frames within frames: the inside of each first, then the frame as one box among its neighbours. */
import { layered } from "./layered";
import { settlePins } from "./pins";
import { FRAME, portX, type Answer, type Box, type End, type Flat, type Laid, type Link, type Place, type Task } from "./types";

export type Engine = (graph: Flat) => Laid;

/** Where a wire begins or ends in one frame: at a box, or at the frame's own edge (`box` is null) on its way out or in. */
interface Tip {
  box: string | null;
  x: number;
  port: string;
}

interface Piece {
  link: Link;
  from: Tip;
  to: Tip;
}

interface Work {
  boxes: Map<string, Box>;
  sizes: Map<string, { width: number; height: number }>;
  places: Record<string, Place>;
  /** For each frame and outer or inner port, where the wire crosses the frame's edge. */
  doors: Map<string, number>;
  /** For each wire, its ways through the frames it touches. */
  ways: Map<string, Map<string | null, number[]>>;
  engine: Engine;
}

export function nested(task: Task, engine: Engine = layered): Answer {
  const boxes = new Map(task.boxes.map((box) => [box.id, box]));
  const work: Work = {
    boxes, engine, places: {}, doors: new Map(), ways: new Map(),
    sizes: new Map(task.boxes.map((box) => [box.id, { width: box.width, height: box.height }])),
  };
  const inside = new Map<string | null, Box[]>([[null, []]]);
  for (const box of task.boxes) add(inside, frameOf(boxes, box.id), box);
  const paths = new Map<Link, { up: string[]; down: string[]; frame: string | null }>();
  const crossing = new Map<string | null, Link[]>();
  for (const link of task.links) {
    if (!boxes.has(link.source.id) || !boxes.has(link.target.id)) continue;
    const path = between(boxes, link);
    paths.set(link, path);
    for (const frame of [...path.up, path.frame, ...path.down]) add(crossing, frame, link);
  }
  const depth = (frame: string | null) => (frame === null ? 0 : above(boxes, frame).length + 1);
  const deepest = [...inside.keys()].sort((a, b) => depth(b) - depth(a));
  for (const frame of deepest) {
    const pieces = (crossing.get(frame) ?? []).map((link) => pieceOf(work, link, frame, paths.get(link)!));
    const [members, set] = apart(inside.get(frame)!, pieces);
    for (const box of set) work.places[box.id] = { x: box.pin![0], y: box.pin![1], ...work.sizes.get(box.id)! };
    const out = new Set(set.map((box) => box.id));
    layLevel(work, frame, members, pieces.filter(({ from, to }) => !out.has(from.box ?? "") && !out.has(to.box ?? "")), set);
  }
  const routes: Answer["routes"] = {};
  for (const [link, path] of paths) {
    const runs = joined(work, link, path);
    if (runs) routes[link.id] = { frame: path.frame, runs };
  }
  return { places: work.places, routes };
}

function add<K, V>(groups: Map<K, V[]>, key: K, value: V): void {
  const group = groups.get(key);
  if (group) group.push(value);
  else groups.set(key, [value]);
}

const frameOf = (boxes: Map<string, Box>, id: string): string | null => {
  const parent = boxes.get(id)!.parent;
  return parent !== null && boxes.has(parent) ? parent : null;
};

/** The frames around a box, from the inside out. */
function above(boxes: Map<string, Box>, id: string): string[] {
  const frames: string[] = [];
  for (let at = frameOf(boxes, id); at !== null; at = frameOf(boxes, at)) frames.push(at);
  return frames;
}

/** The frames that a wire leaves, the one that holds both its ends, and those that it enters. */
function between(boxes: Map<string, Box>, link: Link): { up: string[]; down: string[]; frame: string | null } {
  const [ours, theirs] = [above(boxes, link.source.id), above(boxes, link.target.id)];
  const frame = ours.find((id) => theirs.includes(id)) ?? null;
  const until = (frames: string[]) => (frame === null ? frames : frames.slice(0, frames.indexOf(frame)));
  return { up: until(ours), down: until(theirs).reverse(), frame };
}

const portKey = (end: End) => `${end.at} ${end.id}`;

function pieceOf(work: Work, link: Link, frame: string | null, path: { up: string[]; down: string[]; frame: string | null }): Piece {
  const key = portKey(link.source);
  const outward = path.up.indexOf(frame!);
  const inward = path.down.indexOf(frame!);
  const at = (end: End): Tip => ({ box: end.id, x: portX(work.sizes.get(end.id)!.width, end.at), port: key });
  const door = (inner: string, way: "in" | "out"): Tip => ({ box: inner, x: work.doors.get(`${way} ${inner} ${key}`)!, port: key });
  const edge: Tip = { box: null, x: 0, port: key };
  const start = (inner: string | undefined) => (inner === undefined ? at(link.source) : door(inner, "out"));
  const finish = (inner: string | undefined) => (inner === undefined ? at(link.target) : door(inner, "in"));
  if (frame === path.frame) return { link, from: start(path.up.at(-1)), to: finish(path.down[0]) };
  if (outward >= 0) return { link, from: start(path.up[outward - 1]), to: edge };
  return { link, from: edge, to: finish(path.down[inward + 1]) };
}

/** What a person put somewhere and that leads nowhere takes no room in the rows: nothing moves aside for it. */
function apart(members: Box[], pieces: Piece[]): [Box[], Box[]] {
  const feeds = new Set(pieces.map(({ from }) => from.box));
  const fed = new Set(pieces.map(({ to }) => to.box));
  const aside = (box: Box) => box.pin !== null && box.end === null && !(feeds.has(box.id) && fed.has(box.id));
  return [members.filter((box) => !aside(box)), members.filter(aside)];
}

function layLevel(work: Work, frame: string | null, members: Box[], pieces: Piece[], set: Box[]): void {
  const at = new Map(members.map((box, index) => [box.id, index]));
  const graph: Flat = {
    widths: members.map((box) => work.sizes.get(box.id)!.width),
    heights: members.map((box) => work.sizes.get(box.id)!.height),
    ends: members.map((box) => box.end),
    through: members.map((box) => box.through),
    from: [], to: [], fromX: [], toX: [],
  };
  const doors = new Map<string, number>();
  const seen = new Map<string, number>();
  const index = (tip: Tip, way: "in" | "out"): number => {
    if (tip.box !== null) return at.get(tip.box)!;
    const key = `${way} ${frame} ${tip.port}`;
    if (!doors.has(key)) {
      doors.set(key, graph.widths.length);
      graph.widths.push(0);
      graph.heights.push(0);
      graph.through.push(false);
      graph.ends.push(way === "in" ? "first" : "last");
    }
    return doors.get(key)!;
  };
  // Several wires from one port to one frame are one wire as far as its door.
  const wireOf = pieces.map(({ from, to }) => {
    const [a, b] = [index(from, "in"), index(to, "out")];
    const key = `${a} ${from.x} ${b} ${to.x}`;
    if (!seen.has(key)) {
      seen.set(key, graph.from.length);
      graph.from.push(a);
      graph.to.push(b);
      graph.fromX.push(from.x);
      graph.toX.push(to.x);
    }
    return seen.get(key)!;
  });
  const laid = work.engine(graph);
  const [left, top] = frame === null ? [0, 0] : [FRAME.side, FRAME.top];
  let [right, bottom] = [0, 0];
  const places = members.map((box, place): Place => ({ x: laid.x[place]! + left, y: laid.y[place]! + top, ...work.sizes.get(box.id)! }));
  const moved = settlePins(members, places, graph.from.map((from, wire) => [from, graph.to[wire]!] as const));
  members.forEach((box, place) => {
    work.places[box.id] = places[place]!;
    right = Math.max(right, places[place]!.x + places[place]!.width);
    bottom = Math.max(bottom, places[place]!.y + places[place]!.height);
  });
  for (const box of set) {
    right = Math.max(right, work.places[box.id]!.x + work.places[box.id]!.width);
    bottom = Math.max(bottom, work.places[box.id]!.y + work.places[box.id]!.height);
  }
  for (const runs of laid.runs) for (let place = 0; runs && place < runs.length; place += 3) right = Math.max(right, runs[place]! + left + 8);
  for (const [key, door] of doors) {
    work.doors.set(key, laid.x[door]! + left);
    right = Math.max(right, laid.x[door]! + left + 8);
  }
  let height = 0;
  if (frame !== null) {
    const own = work.sizes.get(frame)!;
    own.width = Math.max(own.width, Math.ceil((right + FRAME.side) / 2) * 2);
    own.height = Math.max(own.height, Math.ceil(bottom + FRAME.bottom));
    height = own.height;
  }
  pieces.forEach(({ link, from, to }, piece) => {
    const wire = wireOf[piece]!;
    const runs = laid.runs[wire];
    if (!runs || moved.has(graph.from[wire]!) || moved.has(graph.to[wire]!)) return;
    const shifted = runs.map((value, place) => value + (place % 3 ? top : left));
    if (from.box === null) shifted[1] = 0;
    if (to.box === null) shifted[shifted.length - 1] = height;
    const ways = work.ways.get(link.id) ?? new Map<string | null, number[]>();
    work.ways.set(link.id, ways.set(frame, shifted));
  });
}

/** A wire's ways through all frames as one, in the coordinates of the frame that holds both ends. */
function joined(work: Work, link: Link, path: { up: string[]; down: string[]; frame: string | null }): number[] | null {
  const ways = work.ways.get(link.id);
  if (!ways) return null;
  const whole: number[] = [];
  const shifts = new Map<string | null, [number, number]>([[path.frame, [0, 0]]]);
  for (const frames of [[...path.up].reverse(), path.down]) {
    let [dx, dy] = [0, 0];
    for (const frame of frames) {
      dx += work.places[frame]!.x;
      dy += work.places[frame]!.y;
      shifts.set(frame, [dx, dy]);
    }
  }
  for (const frame of [...path.up, path.frame, ...path.down]) {
    const runs = ways.get(frame);
    if (!runs) return null;
    const [dx, dy] = shifts.get(frame)!;
    for (let place = 0; place < runs.length; place += 3) {
      const [x, from, to] = [runs[place]! + dx, runs[place + 1]! + dy, runs[place + 2]! + dy];
      if (whole.length && Math.abs(whole.at(-3)! - x) < 1) whole[whole.length - 1] = to;
      else whole.push(x, from, to);
    }
  }
  return whole;
}
