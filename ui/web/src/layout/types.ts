/** What a layout is asked, and what it answers. Plain data: it crosses to a worker. */

/** A card, or a frame with cards in it. */
export interface Box {
  id: string;
  /** The frame that holds it. */
  parent: string | null;
  /** Of a card; a frame's follow from its inside, and are no less than these. */
  width: number;
  height: number;
  /** Where a person put it, within its frame. */
  pin: readonly [number, number] | null;
  /** Inputs stand in the first row, outputs in the last. */
  end: "first" | "last" | null;
  /** Whether what flows in at its first input flows on out of it: that wire is then the one to be straight. */
  through: boolean;
}

/** A port, by how far along its edge it is: 0 to 1. */
export interface End {
  id: string;
  at: number;
}

export interface Link {
  id: string;
  source: End;
  target: End;
}

export interface Task {
  boxes: Box[];
  links: Link[];
}

/** A wire's way: vertical runs `x, from y, to y`, one after another, joined by curves. In the coordinates of `frame`. */
export interface Route {
  frame: string | null;
  runs: number[];
}

export interface Place {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Answer {
  places: Record<string, Place>;
  routes: Record<string, Route>;
}

/** A graph for one level: boxes by index, wires by the offsets of their ports from the boxes' left edges. */
export interface Flat {
  widths: number[];
  heights: number[];
  ends: (Box["end"])[];
  through: boolean[];
  from: number[];
  to: number[];
  fromX: number[];
  toX: number[];
}

/** Left edges, top edges, and for each wire its runs; a wire without runs was not routed. */
export interface Laid {
  x: number[];
  y: number[];
  runs: (number[] | null)[];
}

/** Room around cards. */
export const GAP = { cards: 36, lane: 22, lanes: 14, rows: 38, parts: 72 };

/** Room within a frame: its header, and its edges. */
export const FRAME = { head: 36, top: 50, side: 22, bottom: 24 };

/** Where a port stands along its edge, in pixels. */
export const portX = (width: number, at: number): number => Math.round(width * at);
