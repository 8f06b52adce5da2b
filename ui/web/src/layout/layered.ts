/** A layered layout from top to bottom: rows, few crossings, straight wires. Iterative throughout: depth costs no stack. */
import { orderRows } from "./order";
import { placeBlocks } from "./straighten";
import { GAP, type Flat, type Laid } from "./types";

/** Wires over more rows than this go round the outside, once the helpers that lead them would be too many. */
const LONG = 300;
const MOST_HELPERS = 60_000;

/** Rows past which a wire counts as a lane beside the graph, rather than as a branch of it. */
const MANY = 1;

/** Rows of items: boxes first, by their index; then helpers, which lead long wires past the rows between. */
export interface Rows {
  /** Items of each row, from left to right. */
  rows: number[][];
  row: number[];
  width: number[];
  boxes: number;
  through: boolean[];
  /** By helper: whether it leads a wire past many rows. */
  long: boolean[];
  /** Segments between adjacent rows: `from` above, `to` below; where they meet the items; how much they want to be straight. */
  segments: Segment[];
  /** By item, indices of segments. */
  up: number[][];
  down: number[][];
}

export interface Segment {
  from: number;
  to: number;
  fromX: number;
  toX: number;
}

export function layered(graph: Flat): Laid {
  const count = graph.widths.length;
  const laid: Laid = { x: new Array(count).fill(0), y: new Array(count).fill(0), runs: new Array(graph.from.length).fill(null) };
  if (!count) return laid;
  const pieces = parts(graph).map((members) => {
    const piece = cut(graph, members);
    return { members, piece, own: layPart(piece.graph) };
  });
  pack(pieces.map(({ own }) => own)).forEach(([dx, dy], index) => {
    const { members, piece, own } = pieces[index]!;
    members.forEach((box, at) => {
      laid.x[box] = own.x[at]! + dx;
      laid.y[box] = own.y[at]! + dy;
    });
    piece.wires.forEach((wire, at) => {
      const runs = own.runs[at];
      laid.runs[wire] = runs ? runs.map((value, place) => value + (place % 3 ? dy : dx)) : null;
    });
  });
  return laid;
}

/** Boxes that wires join, largest part first. */
function parts(graph: Flat): number[][] {
  const root = graph.widths.map((_, index) => index);
  const find = (box: number): number => {
    while (root[box] !== box) box = root[box] = root[root[box]!]!;
    return box;
  };
  graph.from.forEach((box, wire) => {
    const [a, b] = [find(box), find(graph.to[wire]!)];
    root[Math.max(a, b)] = Math.min(a, b);
  });
  const found = new Map<number, number[]>();
  root.forEach((_, box) => {
    const key = find(box);
    const part = found.get(key);
    if (part) part.push(box);
    else found.set(key, [box]);
  });
  const sorted = [...found.values()].sort((a, b) => b.length - a.length);
  // An input or output that is not connected keeps its place beside the others.
  const open = (part: number[]) => part.length === 1 && graph.ends[part[0]!] !== null;
  const [main, ...rest] = sorted;
  return [[...main!, ...rest.filter(open).flat()].sort((a, b) => a - b), ...rest.filter((part) => !open(part))];
}

function cut(graph: Flat, members: number[]): { graph: Flat; wires: number[] } {
  if (members.length === graph.widths.length) return { graph, wires: graph.from.map((_, wire) => wire) };
  const at = new Map(members.map((box, index) => [box, index]));
  const wires = graph.from.flatMap((box, wire) => (at.has(box) ? [wire] : []));
  return {
    wires,
    graph: {
      widths: members.map((box) => graph.widths[box]!),
      heights: members.map((box) => graph.heights[box]!),
      ends: members.map((box) => graph.ends[box]!),
      through: members.map((box) => graph.through[box]!),
      from: wires.map((wire) => at.get(graph.from[wire]!)!),
      to: wires.map((wire) => at.get(graph.to[wire]!)!),
      fromX: wires.map((wire) => graph.fromX[wire]!),
      toX: wires.map((wire) => graph.toX[wire]!),
    },
  };
}

interface Part extends Laid {
  width: number;
  height: number;
}

/** Where parts go: the large one at the left, the others beside it in shelves. */
function pack(all: Part[]): [number, number][] {
  const area = all.reduce((sum, part) => sum + (part.width + GAP.parts) * (part.height + GAP.parts), 0);
  const most = Math.max(all[0]!.width + 1200, Math.sqrt(area) * 1.5);
  let [x, y, shelf, left] = [0, 0, 0, 0];
  return all.map((part, index) => {
    if (index === 1 && all[0]!.height > part.height * 3) {
      // What is left of a tall graph's right side takes the small parts.
      left = x;
      shelf = part.height;
    }
    if (x > left && x + part.width > most) {
      x = left;
      y += shelf + GAP.parts;
      shelf = 0;
    }
    const place: [number, number] = [x, y];
    x += part.width + (part.width > 400 ? GAP.parts : GAP.cards);
    shelf = Math.max(shelf, part.height);
    return place;
  });
}

function layPart(graph: Flat): Part {
  const backward = new Set<number>();
  const rank = ranks(graph, backward);
  const { rows, chains } = stack(graph, rank, backward);
  orderRows(rows);
  const x = placeBlocks(rows);
  return finish(graph, rows, chains, x, backward);
}

/** The row of each box. Wires that close a cycle are put into `backward` and do not count. */
function ranks(graph: Flat, backward: Set<number>): number[] {
  const count = graph.widths.length;
  const outs: number[][] = Array.from({ length: count }, () => []);
  const ins: number[][] = Array.from({ length: count }, () => []);
  const open = new Array<number>(count).fill(0);
  graph.from.forEach((box, wire) => {
    const target = graph.to[wire]!;
    if (box === target) return void backward.add(wire);
    outs[box]!.push(wire);
    ins[target]!.push(wire);
    open[target]!++;
  });
  const rank = new Array<number>(count).fill(0);
  const done = new Uint8Array(count);
  const sequence: number[] = [];
  const queue: number[] = [];
  for (let box = 0; box < count; box++) if (!open[box]) queue.push(box);
  let next = 0;
  while (sequence.length < count) {
    if (!queue.length) {
      while (done[next]) next++;
      for (const wire of ins[next]!) if (!done[graph.from[wire]!]) backward.add(wire);
      queue.push(next);
    }
    for (let head = 0; head < queue.length; head++) {
      const box = queue[head]!;
      if (done[box]) continue;
      done[box] = 1;
      sequence.push(box);
      for (const wire of outs[box]!) {
        const target = graph.to[wire]!;
        if (done[target]) continue;
        rank[target] = Math.max(rank[target]!, rank[box]! + 1);
        if (--open[target]! <= 0) queue.push(target);
      }
    }
    queue.length = 0;
  }
  tighten(graph, backward, rank, sequence, ins, outs);
  return rank;
}

/** Shorten wires: what many read stays up, what reads many goes down to its readers. */
function tighten(graph: Flat, backward: Set<number>, rank: number[], sequence: number[], ins: number[][], outs: number[][]): void {
  for (let pass = 0; pass < 2; pass++) {
    for (let at = sequence.length - 1; at >= 0; at--) {
      const box = sequence[at]!;
      if (graph.ends[box] === "first") continue;
      const forward = outs[box]!.filter((wire) => !backward.has(wire));
      const entering = ins[box]!.filter((wire) => !backward.has(wire)).length;
      if (!forward.length || forward.length < entering) continue;
      if (entering && new Set(forward.map((wire) => graph.fromX[wire])).size <= entering) continue;
      rank[box] = Math.min(...forward.map((wire) => rank[graph.to[wire]!]!)) - 1;
    }
  }
  const last = rank.reduce((most, value) => Math.max(most, value), 0);
  graph.ends.forEach((end, box) => {
    if (end === "first" && !ins[box]!.length) rank[box] = 0;
    if (end === "last" && !outs[box]!.length) rank[box] = last;
  });
  const least = rank.reduce((fewest, value) => Math.min(fewest, value), Infinity);
  if (least) rank.forEach((value, box) => (rank[box] = value - least));
}

/** Fill the rows. Wires from one port share their helpers: they run as one line and branch where they are read. */
function stack(graph: Flat, rank: number[], backward: Set<number>): { rows: Rows; chains: (number[] | null)[] } {
  const boxes = graph.widths.length;
  const row = [...rank];
  const width = [...graph.widths];
  const long: boolean[] = [];
  const segments: Segment[] = [];
  const chains = new Array<number[] | null>(graph.from.length).fill(null);
  const span = (wire: number) => rank[graph.to[wire]!]! - rank[graph.from[wire]!]!;
  const ports = new Map<string, number[]>();
  graph.from.forEach((box, wire) => {
    if (backward.has(wire) || span(wire) < 1) return;
    const key = `${box}:${graph.fromX[wire]}`;
    const fan = ports.get(key);
    if (fan) fan.push(wire);
    else ports.set(key, [wire]);
  });
  const needed = [...ports.values()].reduce((sum, fan) => sum + Math.max(...fan.map(span)) - 1, 0);
  for (const fan of ports.values()) {
    const kept = needed > MOST_HELPERS ? fan.filter((wire) => span(wire) <= LONG) : fan;
    if (!kept.length) continue;
    const [source, port] = [graph.from[kept[0]!]!, graph.fromX[kept[0]!]!];
    const trunk: number[] = [];
    const reach = Math.max(...kept.map(span)) - 1;
    for (let length = reach; length > 0; length--) {
      const helper = width.length;
      const above = trunk.at(-1) ?? source;
      segments.push({ from: above, to: helper, fromX: trunk.length ? 0 : port, toX: 0 });
      trunk.push(helper);
      row.push(rank[source]! + trunk.length);
      width.push(0);
      long.push(reach > MANY);
    }
    for (const wire of kept) {
      const chain = trunk.slice(0, span(wire) - 1);
      chains[wire] = chain;
      segments.push({ from: chain.at(-1) ?? source, to: graph.to[wire]!, fromX: chain.length ? 0 : port, toX: graph.toX[wire]! });
    }
  }
  const rows: Rows = { rows: [], row, width, boxes, through: graph.through, long, segments, up: [], down: [] };
  const depth = row.reduce((most, value) => Math.max(most, value), 0) + 1;
  rows.rows = Array.from({ length: depth }, () => []);
  rows.up = width.map(() => []);
  rows.down = width.map(() => []);
  segments.forEach((segment, index) => {
    rows.down[segment.from]!.push(index);
    rows.up[segment.to]!.push(index);
  });
  return { rows, chains };
}

function finish(graph: Flat, rows: Rows, chains: (number[] | null)[], x: number[], backward: Set<number>): Part {
  const top: number[] = [];
  const bottom: number[] = [];
  const reach = new Array<number>(rows.rows.length).fill(0);
  for (const { from, to, fromX, toX } of rows.segments) {
    const sideways = Math.abs(x[from]! + fromX - x[to]! - toX);
    reach[rows.row[from]!] = Math.max(reach[rows.row[from]!]!, sideways);
  }
  let y = 0;
  rows.rows.forEach((row, index) => {
    const tallest = row.reduce((most, item) => Math.max(most, item < rows.boxes ? graph.heights[item]! : 0), 0);
    top.push(y);
    bottom.push(y + tallest);
    // Wires that go far to the side need height for it.
    const far = reach[index]!;
    y += tallest + GAP.rows + (far > 900 ? 30 : far > 400 ? 18 : far > 150 ? 8 : 0);
  });
  const part: Part = { x: [], y: [], runs: [], width: 0, height: bottom.at(-1)! };
  for (let box = 0; box < rows.boxes; box++) {
    const row = rows.row[box]!;
    part.x.push(Math.round(x[box]!));
    part.y.push(Math.round((top[row]! + bottom[row]! - graph.heights[box]!) / 2));
    part.width = Math.max(part.width, part.x[box]! + graph.widths[box]!);
  }
  for (let item = rows.boxes; item < x.length; item++) part.width = Math.max(part.width, x[item]! + GAP.lanes);
  part.runs = chains.map((chain, wire) => {
    if (!chain || backward.has(wire)) return null;
    const [source, target] = [graph.from[wire]!, graph.to[wire]!];
    const runs = [part.x[source]! + graph.fromX[wire]!, part.y[source]! + graph.heights[source]!, bottom[rows.row[source]!]!];
    const follow = (at: number, from: number, to: number) => {
      if (Math.abs(runs.at(-3)! - at) < 1) runs[runs.length - 1] = to;
      else runs.push(at, from, to);
    };
    for (const helper of chain) follow(Math.round(x[helper]!), top[rows.row[helper]!]!, bottom[rows.row[helper]!]!);
    follow(part.x[target]! + graph.toX[wire]!, top[rows.row[target]!]!, part.y[target]!);
    return runs;
  });
  return part;
}

