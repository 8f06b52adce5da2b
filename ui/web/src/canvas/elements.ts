/** Nodes and wires as React Flow takes them. One that did not change keeps its identity: it is not drawn again. */
import { Position, type Edge, type Node } from "@xyflow/react";
import { useMemo, useRef } from "react";

import { FRAME, portX } from "../layout/types";
import type { NodeView, Share, WireView } from "../protocol";
import { useCanvas } from "../store";
import { PORT, portNamed, spotsOf } from "./measure";
import { freeRuns, laidRuns, type Runs } from "./route";
import { useScene, type Placed, type Scene } from "./scene";
import { useView, type Colouring, type Layout, type XY } from "./view";

export interface CardData extends Record<string, unknown> {
  node: NodeView;
  /** Its share of the whole by the chosen metric, and how hot that is beside the others; null: coloured by group. */
  heat: { share: number; tint: number } | null;
}

export interface WireData extends Record<string, unknown> {
  wire: WireView;
  runs: Runs;
  /** Whether it leads to or from what is selected. */
  lit: boolean;
  int: boolean;
  /** Where its shape is written when all are: beneath its output, once for all wires from there; null: another says it. */
  label: XY | null;
}

export type CanvasNode = Node<CardData, "card" | "frame">;
export type CanvasEdge = Edge<WireData, "wire">;

/** Order of drawing: wires lie beneath frames, which let them shine through except where their header is. */
const Z = { wire: 0, frame: 1, card: 200, selected: 400 };

const HIDDEN: { nodes: CanvasNode[]; edges: CanvasEdge[] } = { nodes: [], edges: [] };

export function useElements(): { nodes: CanvasNode[]; edges: CanvasEdge[] } {
  const scene = useScene((state) => state.scene);
  const layout = useView((state) => state.layout);
  const colouring = useView((state) => state.colouring);
  const overview = useView((state) => state.overview);
  const wires = useCanvas((state) => state.wires);
  const selection = useCanvas((state) => state.selection);
  const selectedWires = useCanvas((state) => state.selectedWires);
  const cards = useRef(new Map<string, { placed: Placed; selected: boolean; tint: string; node: CanvasNode }>());
  const lines = useRef(new Map<string, Line>());

  const nodes = useMemo(() => {
    if (overview) return HIDDEN.nodes;
    const most = colouring === "group" ? 0 : hottest(scene, colouring);
    const kept: typeof cards.current = new Map();
    const all = scene.all.map((placed) => {
      const { path } = placed.node;
      const selected = selection.has(path);
      const share = colouring === "group" ? null : (placed.node.share?.[colouring] ?? 0);
      const tint = share === null ? "" : `${share} ${most}`;
      const old = cards.current.get(path);
      if (old && old.placed === placed && old.selected === selected && old.tint === tint) {
        kept.set(path, old);
        return old.node;
      }
      const heat = share === null ? null : { share, tint: most ? Math.sqrt(share / most) : 0 };
      const same = old && old.placed.node === placed.node && old.tint === tint;
      const node = nodeOf(placed, selected, same ? old.node.data : { node: placed.node, heat });
      kept.set(path, { placed, selected, tint, node });
      return node;
    });
    cards.current = kept;
    return all;
  }, [scene, selection, colouring, overview]);

  const firsts = useMemo(() => firstOfPorts(wires.values()), [wires]);
  const edges = useMemo(() => {
    if (overview || !layout) return HIDDEN.edges;
    const kept: typeof lines.current = new Map();
    const all: CanvasEdge[] = [];
    for (const wire of wires.values()) {
      const marks = { selected: selectedWires.has(wire.id), lit: selection.has(wire.source.path) || selection.has(wire.target.path), first: firsts.has(wire.id) };
      const line = lineOf(wire, scene, layout, marks, lines.current.get(wire.id));
      if (!line) continue;
      kept.set(wire.id, line);
      all.push(line.edge);
    }
    lines.current = kept;
    return all;
  }, [scene, layout, wires, firsts, selection, selectedWires, overview]);

  return { nodes, edges };
}

function firstOfPorts(wires: Iterable<WireView>): Set<string> {
  const ports = new Map<string, string>();
  for (const { id, source } of wires) {
    const port = `${source.path} ${source.port}`;
    if (!ports.has(port)) ports.set(port, id);
  }
  return new Set(ports.values());
}

/** The greatest share among cards, so that colours tell them apart however small the level is. */
export function hottest(scene: Scene, colouring: Exclude<Colouring, "group">): number {
  return scene.all.reduce((most, { node }) => (node.kind === "frame" ? most : Math.max(most, node.share?.[colouring as keyof Share] ?? 0)), 0);
}

function nodeOf(placed: Placed, selected: boolean, data: CardData): CanvasNode {
  const { node, x, y, width, height, depth } = placed;
  const frame = node.kind === "frame";
  return {
    id: node.path, type: frame ? "frame" : "card", position: { x, y }, data, selected,
    width, height, measured: { width, height },
    handles: frame ? [] : spotsOf(node, placed).map((spot) => ({
      id: spot.id, type: spot.type, position: spot.type === "target" ? Position.Top : Position.Bottom,
      x: spot.x - PORT / 2, y: spot.y - PORT / 2, width: PORT, height: PORT,
    })),
    ...(placed.depth ? { parentId: node.parent!, extent: [[FRAME.side / 2, FRAME.head + 8], [Infinity, Infinity]] as [[number, number], [number, number]] } : {}),
    // Empty room in a frame belongs to the canvas: there one pans, drops and selects.
    ...(frame ? { dragHandle: ".cn-frame-head", style: { pointerEvents: "none" as const } } : {}),
    zIndex: (frame ? Z.frame + depth : selected ? Z.selected : Z.card + depth),
    ariaLabel: spoken(node),
    domAttributes: { "data-path": node.path, "data-kind": node.kind, "data-severity": node.severity ?? "" } as CanvasNode["domAttributes"],
  };
}

function spoken(node: NodeView): string {
  const parts = [node.id, node.title, node.detail, node.repeat ? `${node.repeat} layers` : "", node.dead ? "not used by any output" : "", node.severity ? `${node.severity}: ${node.problem ?? ""}` : ""];
  return parts.filter(Boolean).join(", ");
}

interface Line {
  wire: WireView;
  source: Placed;
  target: Placed;
  route: object | undefined;
  frame: Placed | undefined;
  marks: Marks;
  edge: CanvasEdge;
}

interface Marks {
  selected: boolean;
  lit: boolean;
  /** Whether it is the first from its port. */
  first: boolean;
}

const sameMarks = (a: Marks, b: Marks) => a.selected === b.selected && a.lit === b.lit && a.first === b.first;

function lineOf(wire: WireView, scene: Scene, layout: Layout, marks: Marks, old: Line | undefined): Line | null {
  const source = scene.byPath.get(wire.source.path);
  const target = scene.byPath.get(wire.target.path);
  if (!source || !target) return null;
  const route = layout.routes.get(wire.id);
  const frame = route?.frame ? scene.byPath.get(route.frame) : undefined;
  const still = old && old.source === source && old.target === target && old.route === route && old.frame === frame;
  if (still && old.wire === wire && sameMarks(old.marks, marks)) return old;
  const runs = still ? old.edge.data!.runs : runsOf(wire, scene, source, target, route, frame);
  const edge: CanvasEdge = {
    id: wire.id, type: "wire", source: wire.source.path, target: wire.target.path, sourceHandle: wire.source.port, targetHandle: wire.target.port,
    data: { wire, runs, lit: marks.lit, int: isInt(source.node, wire), label: marks.first || marks.selected ? labelAt(source.node, wire, runs) : null },
    selected: marks.selected, zIndex: Z.wire + (marks.selected || marks.lit || wire.bad ? 1 : 0),
    ariaLabel: `Wire from ${source.node.id} to ${target.node.id}${wire.bad ? `: ${wire.problem ?? "the shapes disagree"}` : ""}`,
    domAttributes: { "data-wire": wire.id, "data-bad": String(Boolean(wire.bad)) } as CanvasEdge["domAttributes"],
  };
  return { wire, source, target, route, frame, marks, edge };
}

/** Beneath its output; those of several outputs take turns, so that they do not lie on one another. */
function labelAt(source: NodeView, wire: WireView, runs: Runs): XY {
  const index = source.outputs.findIndex((port) => port.name === wire.source.port);
  return { x: runs[0]!, y: runs[1]! + (index % 2 === 1 ? 29 : 14) };
}

const isInt = (source: NodeView, wire: WireView) => source.outputs.find((port) => port.name === wire.source.port)?.dtype === "int";

/** Where a wire runs, in the coordinates of the whole canvas. */
export function runsOf(
  wire: WireView, scene: Scene, source: Placed, target: Placed, route: Layout["routes"] extends ReadonlyMap<string, infer R> ? R | undefined : never, frame: Placed | undefined,
): Runs {
  const x0 = source.left + portX(source.width, portNamed(source.node, "source", wire.source.port));
  const x1 = target.left + portX(target.width, portNamed(target.node, "target", wire.target.port));
  const y0 = source.top + source.height;
  const y1 = target.top;
  const laid = route && laidRuns(route.runs, frame?.left ?? 0, frame?.top ?? 0, x0, y0, x1, y1);
  return laid ?? freeRuns(scene, x0, y0, x1, y1, new Set([source.node.path, target.node.path]));
}
