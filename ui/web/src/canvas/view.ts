/** What only the canvas knows: where the layout puts things, what is being dragged, how it is drawn. */
import type { ReactFlowInstance } from "@xyflow/react";
import { create } from "zustand";

import type { Place, Route } from "../layout/types";
import type { CanvasEdge, CanvasNode } from "./elements";

export interface XY {
  x: number;
  y: number;
}

/** What tints the cards: their group, or their share of the whole. */
export type Colouring = "group" | "parameters" | "flops" | "memory" | "time";

export interface Layout {
  /** The document and the level that it is of. */
  level: string;
  places: ReadonlyMap<string, Place>;
  routes: ReadonlyMap<string, Route>;
}

export interface View {
  layout: Layout | null;
  /** Whether a layout is being made that takes a while. */
  busy: boolean;
  /** Where nodes are that were moved here and that the server has not confirmed yet. */
  drafts: ReadonlyMap<string, XY>;
  /** So small that nodes are drawn on one 2-D canvas. */
  overview: boolean;
  /** So small that cards leave out their fields. */
  light: boolean;
  colouring: Colouring;
  /** The wire that a dragged palette entry would be put on. */
  dropWire: string | null;
  /** The frame that it would be put into. */
  dropFrame: string | null;
  /** Whether nodes are on their way to new places. */
  moving: boolean;
  /** A port that a wire is being dragged from. */
  dragging: { path: string; type: "source" | "target"; dtype: string } | null;
  /** In the add menu, nodes that are there come first. */
  existingFirst: boolean;
  /** The card under the pointer. */
  hovered: string | null;
  hoveredWire: string | null;
  /** The card whose menu is open. */
  nodeMenu: { path: string; screen: XY } | null;
  /** Whether what it adds stands where it is open; else the layout places that. */
  menuHere: boolean;
  flow: ReactFlowInstance<CanvasNode, CanvasEdge> | null;
}

export const useView = create<View>(() => ({
  layout: null, busy: false, drafts: new Map(), overview: false, light: false, colouring: "group", dropWire: null, dropFrame: null,
  moving: false, dragging: null, existingFirst: false, menuHere: true, hovered: null, hoveredWire: null, nodeMenu: null, flow: null,
}));
