/** What people placed stands where they put it; the rest keeps its place beside it, on top of nothing. */
import type { Box, Place } from "./types";

/** Moves `places`; says which boxes no longer stand where the layout had them. */
export function settlePins(members: Box[], places: Place[], wires: readonly (readonly [number, number])[]): Set<number> {
  const moved = new Set<number>();
  const moves = new Map<number, [number, number]>();
  members.forEach((box, index) => {
    if (!box.pin) return;
    const place = places[index]!;
    moves.set(index, [box.pin[0] - place.x, box.pin[1] - place.y]);
    if (box.pin[0] !== place.x || box.pin[1] !== place.y) moved.add(index);
    [place.x, place.y] = box.pin;
  });
  if (!moved.size) return moved;
  if (moves.size > members.length / 2) follow(members, places, wires, moves, moved);
  makeRoom(places, moves, moved);
  return moved;
}

/** Where most boxes were placed by hand, a new one goes to where it would stand among them. */
function follow(
  members: Box[], places: Place[], wires: readonly (readonly [number, number])[], moves: Map<number, [number, number]>, moved: Set<number>,
): void {
  const near: number[][] = members.map(() => []);
  for (const [a, b] of wires) {
    if (a >= members.length || b >= members.length) continue;
    near[a]!.push(b);
    near[b]!.push(a);
  }
  members.forEach((box, index) => {
    if (box.pin) return;
    const beside = near[index]!.flatMap((other) => (moves.has(other) ? [moves.get(other)!] : []));
    if (!beside.length) return;
    places[index]!.x += Math.round(beside.reduce((sum, move) => sum + move[0], 0) / beside.length);
    places[index]!.y += Math.round(beside.reduce((sum, move) => sum + move[1], 0) / beside.length);
    moved.add(index);
  });
}

function makeRoom(places: Place[], fixed: Map<number, unknown>, moved: Set<number>): void {
  const taken = [...fixed.keys()].map((index) => places[index]!);
  places.forEach((place, index) => {
    if (fixed.has(index)) return;
    for (let tries = 0; tries < 50; tries++) {
      const hit = taken.find((other) => overlap(place, other));
      if (!hit) break;
      place.y = hit.y + hit.height + 16;
      moved.add(index);
    }
    if (moved.has(index)) taken.push(place);
  });
}

const overlap = (a: Place, b: Place) =>
  a.x < b.x + b.width + 8 && b.x < a.x + a.width + 8 && a.y < b.y + b.height + 8 && b.y < a.y + a.height + 8;
