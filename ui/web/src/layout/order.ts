/** Order the items of each row so that few wires cross: barycenters up and down, then swaps of neighbours. */
import type { Rows } from "./layered";

/** Items above which fewer rounds are made. */
const LARGE = 4000;

export function orderRows(rows: Rows): void {
  first(rows);
  const at = new Array<number>(rows.row.length).fill(0);
  const number = () => rows.rows.forEach((row) => row.forEach((item, index) => (at[item] = index)));
  number();
  let best = rows.rows.map((row) => [...row]);
  let fewest = countCrossings(rows, at);
  const rounds = rows.row.length > LARGE ? 4 : 14;
  for (let round = 0, idle = 0; round < rounds && fewest && idle < 4; round++, idle++) {
    sweep(rows, at, round % 2 === 0, round % 4 > 1);
    if (rows.row.length <= LARGE) swapNeighbours(rows, at);
    const crossings = countCrossings(rows, at);
    if (crossings >= fewest) continue;
    fewest = crossings;
    best = rows.rows.map((row) => [...row]);
    idle = 0;
  }
  rows.rows = best;
}

/** As a walk down from the first row meets them: what belongs together starts together. */
function first(rows: Rows): void {
  const seen = new Uint8Array(rows.row.length);
  const filled: number[][] = rows.rows.map(() => []);
  const roots = rows.row.map((_, item) => item).sort((a, b) => rows.row[a]! - rows.row[b]! || a - b);
  for (const root of roots) {
    const open = [root];
    while (open.length) {
      const item = open.pop()!;
      if (seen[item]) continue;
      seen[item] = 1;
      filled[rows.row[item]!]!.push(item);
      // Boxes before helpers: the wires that pass by then run at the right.
      const next = rows.down[item]!.map((index) => rows.segments[index]!);
      next.sort((a, b) => b.fromX - a.fromX || Number(b.to >= rows.boxes) - Number(a.to >= rows.boxes) || b.to - a.to);
      for (const segment of next) if (!seen[segment.to]) open.push(segment.to);
    }
  }
  rows.rows = filled;
}

/** Where along a row a port is, in items: its item's place, and how far right on it. */
const spot = (rows: Rows, at: number[], item: number, x: number) =>
  at[item]! + (rows.width[item] ? (x / rows.width[item]! - 0.5) * 0.8 : 0);

function sweep(rows: Rows, at: number[], down: boolean, lean: boolean): void {
  const order = rows.rows.map((_, index) => (down ? index : rows.rows.length - 1 - index));
  for (const index of order) {
    const row = rows.rows[index]!;
    if (row.length < 2) continue;
    const wish = new Map<number, number>();
    for (const item of row) {
      const near = down ? rows.up[item]! : rows.down[item]!;
      if (!near.length) continue;
      let sum = 0;
      for (const segment of near) {
        const { from, to, fromX, toX } = rows.segments[segment]!;
        sum += down ? spot(rows, at, from, fromX) - offset(rows, to, toX) : spot(rows, at, to, toX) - offset(rows, from, fromX);
      }
      wish.set(item, sum / near.length);
    }
    const sorted = row.filter((item) => wish.has(item));
    sorted.sort((a, b) => wish.get(a)! - wish.get(b)! || (lean ? at[b]! - at[a]! : at[a]! - at[b]!));
    let next = 0;
    row.forEach((item, place) => {
      if (wish.has(item)) row[place] = sorted[next++]!;
    });
    row.forEach((item, place) => (at[item] = place));
  }
}

const offset = (rows: Rows, item: number, x: number) => (rows.width[item] ? (x / rows.width[item]! - 0.5) * 0.2 : 0);

/** Swap neighbours as long as that takes crossings away. */
function swapNeighbours(rows: Rows, at: number[]): void {
  for (let round = 0; round < 3; round++) {
    let better = false;
    for (const row of rows.rows) {
      for (let place = 0; place + 1 < row.length; place++) {
        const [a, b] = [row[place]!, row[place + 1]!];
        const now = pairCrossings(rows, at, a, b);
        if (!now || pairCrossings(rows, at, b, a) >= now) continue;
        row[place] = b;
        row[place + 1] = a;
        at[a] = place + 1;
        at[b] = place;
        better = true;
      }
    }
    if (!better) return;
  }
}

/** Crossings between the wires of two neighbours, were the first left of the second. */
function pairCrossings(rows: Rows, at: number[], left: number, right: number): number {
  let crossings = 0;
  for (const a of rows.up[left]!) {
    const one = rows.segments[a]!;
    const x = spot(rows, at, one.from, one.fromX);
    for (const b of rows.up[right]!) {
      const other = rows.segments[b]!;
      if (x > spot(rows, at, other.from, other.fromX)) crossings++;
    }
  }
  for (const a of rows.down[left]!) {
    const one = rows.segments[a]!;
    const x = spot(rows, at, one.to, one.toX);
    for (const b of rows.down[right]!) {
      const other = rows.segments[b]!;
      if (x > spot(rows, at, other.to, other.toX)) crossings++;
    }
  }
  return crossings;
}

/** How many pairs of segments cross, by counting inversions between each two rows. */
export function countCrossings(rows: Rows, at: number[]): number {
  let crossings = 0;
  for (const row of rows.rows) {
    const pairs: [number, number][] = [];
    for (const item of row) {
      for (const index of rows.down[item]!) {
        const { from, to, fromX, toX } = rows.segments[index]!;
        pairs.push([spot(rows, at, from, fromX), spot(rows, at, to, toX)]);
      }
    }
    if (pairs.length < 2) continue;
    pairs.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    crossings += inversions(pairs.map((pair) => pair[1]));
  }
  return crossings;
}

function inversions(values: number[]): number {
  const sorted = [...new Set(values)].sort((a, b) => a - b);
  if (sorted.length === 1) return 0;
  const place = new Map(sorted.map((value, index) => [value, index + 1]));
  const tree = new Int32Array(sorted.length + 1);
  let count = 0;
  for (let index = 0; index < values.length; index++) {
    const own = place.get(values[index]!)!;
    let before = 0;
    for (let node = own; node; node -= node & -node) before += tree[node]!;
    count += index - before;
    for (let node = own; node < tree.length; node += node & -node) tree[node] = tree[node]! + 1;
  }
  return count;
}
