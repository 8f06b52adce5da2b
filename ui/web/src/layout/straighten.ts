/** Give the items of ordered rows their x: wires that can be straight are, and boxes stand in the middle of what they join. */
import type { Rows } from "./layered";
import { GAP } from "./types";

/** How far a box may stand from the middle of the column that it continues. */
const ASTRAY = 96;

/** Boxes wider than this (open frames) stand under the first of two wires, not between them. */
const WIDE = 360;

/** Items that stand upright on one another and move as one. */
interface Blocks {
  of: number[];
  /** Each item's left edge, from its block's. */
  shift: number[];
  count: number;
}

interface Rule {
  block: number;
  /** Least distance of the two blocks' left edges. */
  distance: number;
}

export function placeBlocks(rows: Rows): number[] {
  const at = new Array<number>(rows.row.length).fill(0);
  rows.rows.forEach((row) => row.forEach((item, index) => (at[item] = index)));
  let blocks = align(rows, at);
  let rules = neighbours(rows, blocks);
  let order = sorted(blocks.count, rules.right);
  if (!order) {
    // Blocks that go round in a circle cannot stand: every item then moves alone, and a row cannot.
    blocks = { of: rows.row.map((_, item) => item), shift: rows.row.map(() => 0), count: rows.row.length };
    rules = neighbours(rows, blocks);
    order = sorted(blocks.count, rules.right)!;
  }
  const x = settle(rows, blocks, rules, order);
  const placed = rows.row.map((_, item) => x[blocks.of[item]!]! + blocks.shift[item]!);
  const least = placed.reduce((fewest, value) => Math.min(fewest, value), Infinity);
  return placed.map((value) => value - least);
}

/** Which wires are to be straight: long ones first, then the middle one of those that meet at a box. */
function align(rows: Rows, at: number[]): Blocks {
  const below = new Array<number>(rows.row.length).fill(-1);
  const above = new Array<number>(rows.row.length).fill(-1);
  const taken: [number, number][][] = rows.rows.map(() => []);
  const isBox = (item: number) => item < rows.boxes;
  const short = (item: number) => isBox(item) || !rows.long[item - rows.boxes];
  const middleDown = rows.down.map((near, item) =>
    middle(near.map((index) => ({ index, other: rows.segments[index]!.to, port: rows.segments[index]!.fromX })), at, isBox, short, rows.width[item]! > WIDE));
  const middleUp = rows.up.map((near, item) =>
    middle(near.map((index) => ({ index, other: rows.segments[index]!.from, port: rows.segments[index]!.toX })), at, isBox, short, rows.through[item] === true));
  const join = (index: number) => {
    const { from, to } = rows.segments[index]!;
    if (below[from] !== -1 || above[to] !== -1) return;
    const gap = taken[rows.row[from]!]!;
    const [a, b] = [at[from]!, at[to]!];
    if (gap.some(([c, d]) => (a < c) !== (b < d))) return;
    gap.push([a, b]);
    below[from] = index;
    above[to] = index;
  };
  const all = rows.segments.map((_, index) => index);
  const kind = (index: number) => Number(isBox(rows.segments[index]!.from)) + Number(isBox(rows.segments[index]!.to));
  for (const index of all) if (kind(index) === 0) join(index);
  for (const index of all) {
    const { from, to } = rows.segments[index]!;
    if (kind(index) === 2 && middleDown[from] === index && middleUp[to] === index) join(index);
  }
  for (const index of all) {
    const { from, to } = rows.segments[index]!;
    // A lane that starts or ends at a box joins it only where nothing else does.
    if (kind(index) === 1 && (isBox(from) ? rows.down[from]!.length === 1 : rows.up[to]!.length === 1)) join(index);
  }
  const column = new Array<number>(rows.row.length).fill(0);
  const blocks: Blocks = { of: new Array(rows.row.length).fill(-1), shift: new Array(rows.row.length).fill(0), count: 0 };
  for (const row of rows.rows) {
    for (const item of row) {
      if (above[item] === -1) {
        blocks.of[item] = blocks.count++;
        column[item] = rows.width[item]! / 2;
        continue;
      }
      const { from, fromX, toX } = rows.segments[above[item]!]!;
      blocks.of[item] = blocks.of[from]!;
      const straight = blocks.shift[from]! + fromX - toX;
      // Straight wires to ports beside the middle add up: before they lead astray, one of them bends.
      column[item] = rows.width[from]! > WIDE ? blocks.shift[from]! + fromX : column[from]!;
      const centred = column[item]! - rows.width[item]! / 2;
      const bends = isBox(item) && rows.width[item]! <= WIDE && Math.abs(straight - centred) > ASTRAY;
      blocks.shift[item] = bends ? centred : straight;
    }
  }
  return blocks;
}

interface Near {
  index: number;
  other: number;
  port: number;
}

/**
 * The middle one of the wires at a box, or the first; none where two are equally in the middle.
 * Wires that lead past many rows count only where there are no others.
 */
function middle(all: Near[], at: number[], isBox: (item: number) => boolean, short: (item: number) => boolean, first: boolean): number {
  const boxes = all.filter(({ other }) => isBox(other));
  const branches = all.filter(({ other }) => short(other));
  // A box that two branches meet at stands between them; beside several that come from afar, what is near leads.
  const counted = boxes.length === 1 && branches.length !== 2 ? boxes : branches.length ? branches : all;
  if (first && counted.length) return counted.reduce((least, near) => (near.port < least.port ? near : least)).index;
  const sorted = [...counted].sort((a, b) => at[a.other]! - at[b.other]! || a.port - b.port);
  const same = new Set(sorted.map(({ other }) => other)).size === 1;
  if (sorted.length % 2 || (same && sorted.length)) return sorted[(sorted.length - 1) >> 1]!.index;
  return -1;
}

function neighbours(rows: Rows, blocks: Blocks): { left: Rule[][]; right: Rule[][] } {
  const least = new Map<number, number>();
  for (const row of rows.rows) {
    for (let place = 0; place + 1 < row.length; place++) {
      const [a, b] = [row[place]!, row[place + 1]!];
      const [one, other] = [blocks.of[a]!, blocks.of[b]!];
      const lanes = Number(a >= rows.boxes) + Number(b >= rows.boxes);
      const gap = lanes === 2 ? GAP.lanes : lanes ? GAP.lane : GAP.cards;
      const distance = blocks.shift[a]! + rows.width[a]! + gap - blocks.shift[b]!;
      const key = one * blocks.count + other;
      least.set(key, Math.max(least.get(key) ?? -Infinity, distance));
    }
  }
  const left: Rule[][] = Array.from({ length: blocks.count }, () => []);
  const right: Rule[][] = Array.from({ length: blocks.count }, () => []);
  for (const [key, distance] of least) {
    const [one, other] = [Math.floor(key / blocks.count), key % blocks.count];
    right[one]!.push({ block: other, distance });
    left[other]!.push({ block: one, distance });
  }
  return { left, right };
}

/** Blocks from left to right; nothing where their rules make a circle. */
function sorted(count: number, right: Rule[][]): number[] | null {
  const open = new Array<number>(count).fill(0);
  for (const rules of right) for (const { block } of rules) open[block]!++;
  const order = open.flatMap((value, block) => (value ? [] : [block]));
  for (let head = 0; head < order.length; head++) {
    for (const { block } of right[order[head]!]!) if (!--open[block]!) order.push(block);
  }
  return order.length === count ? order : null;
}

interface Pull {
  other: number;
  /** Where the other block's left edge wants this one's: that much further right. */
  shift: number;
  weight: number;
}

/** Start at the left; then let each block go to the mean of what it is wired to, as far as its neighbours leave room. */
function settle(rows: Rows, blocks: Blocks, rules: { left: Rule[][]; right: Rule[][] }, order: number[]): number[] {
  const x = new Array<number>(blocks.count).fill(0);
  for (const block of order) for (const { block: left, distance } of rules.left[block]!) x[block] = Math.max(x[block]!, x[left]! + distance);
  const pulls: Pull[][] = Array.from({ length: blocks.count }, () => []);
  for (const { from, to, fromX, toX } of rows.segments) {
    const [a, b] = [blocks.of[from]!, blocks.of[to]!];
    if (a === b) continue;
    const lanes = Number(from >= rows.boxes) + Number(to >= rows.boxes);
    const weight = lanes === 2 ? 6 : lanes ? 1 : 3;
    const shift = blocks.shift[from]! + fromX - blocks.shift[to]! - toX;
    pulls[b]!.push({ other: a, shift, weight });
    pulls[a]!.push({ other: b, shift: -shift, weight });
  }
  const rounds = blocks.count > 6000 ? 8 : 40;
  const backward = [...order].reverse();
  for (let round = 0; round < rounds; round++) {
    let moved = 0;
    for (const block of round % 2 ? order : backward) {
      const pull = pulls[block]!;
      if (!pull.length) continue;
      let [sum, weights] = [0, 0];
      for (const { other, shift, weight } of pull) {
        sum += (x[other]! + shift) * weight;
        weights += weight;
      }
      let [least, most] = [-Infinity, Infinity];
      for (const { block: left, distance } of rules.left[block]!) least = Math.max(least, x[left]! + distance);
      for (const { block: right, distance } of rules.right[block]!) most = Math.min(most, x[right]! - distance);
      const wish = Math.min(Math.max(sum / weights, least), most);
      moved = Math.max(moved, Math.abs(wish - x[block]!));
      x[block] = wish;
    }
    if (moved < 0.5) break;
  }
  return x;
}
