/** The gestures on the canvas: what they mean, drawn at once or asked of the server. */
import type { Connection, EdgeChange, FinalConnectionState, NodeChange, OnConnectStartParams } from "@xyflow/react";
import type { DragEvent, FocusEvent, MouseEvent } from "react";

import { useCanvas } from "../store";
import { centre, draft, drop, enter, likelyPort, openMenu, openOnWire, place, remove, rewire, straightened } from "./commands";
import type { CanvasEdge, CanvasNode } from "./elements";
import { focusCanvas } from "./focus";
import { frameAt, nodeAt, scene } from "./scene";
import { useView } from "./view";
import { wireEntered } from "./WireTip";

// ---------------------------------------------------------------------------------------------------------------------
// Selecting and moving
// ---------------------------------------------------------------------------------------------------------------------

let boxing = false;

export function nodesChange(changes: NodeChange<CanvasNode>[]): void {
  const { selection, selectedWires, select } = useCanvas.getState();
  const chosen = new Set(selection);
  const moves: [string, { x: number; y: number }][] = [];
  let selecting = false;
  for (const change of changes) {
    if (change.type === "position" && change.position && change.dragging) moves.push([change.id, change.position]);
    if (change.type !== "select") continue;
    selecting = true;
    if (change.selected) chosen.add(change.id);
    else chosen.delete(change.id);
  }
  if (moves.length === 1) draft([[moves[0]![0], straightened(...moves[0]!)]]);
  else if (moves.length) draft(moves);
  if (selecting) select(chosen, boxing ? [] : selectedWires);
}

export function edgesChange(changes: EdgeChange<CanvasEdge>[]): void {
  // A box takes nodes; their wires go with them anyway.
  if (boxing) return;
  const { selection, selectedWires, select } = useCanvas.getState();
  const chosen = new Set(selectedWires);
  for (const change of changes) {
    if (change.type !== "select") continue;
    if (change.selected) chosen.add(change.id);
    else chosen.delete(change.id);
  }
  select(selection, chosen);
}

export function dragged(_event: unknown, ...rest: unknown[]): void {
  const nodes = rest.find((part): part is CanvasNode[] => Array.isArray(part));
  if (nodes) void place(nodes.map((node) => node.id));
}

let corner = { x: 0, y: 0 };

export function boxBegun(event: MouseEvent): void {
  boxing = true;
  corner = { x: event.clientX, y: event.clientY };
}

/** In the overview React Flow has no nodes to take: the box is read from the scene. */
export function boxed(event: MouseEvent): void {
  // The last changes of the box come after its end.
  setTimeout(() => { boxing = false; });
  const { flow, overview } = useView.getState();
  if (!overview || !flow) return;
  const [a, b] = [flow.screenToFlowPosition(corner), flow.screenToFlowPosition({ x: event.clientX, y: event.clientY })];
  const [left, right, top, bottom] = [Math.min(a.x, b.x), Math.max(a.x, b.x), Math.min(a.y, b.y), Math.max(a.y, b.y)];
  const inside = scene().all.filter((placed) => placed.node.kind !== "frame" && placed.left < right && placed.left + placed.width > left && placed.top < bottom && placed.top + placed.height > top);
  useCanvas.getState().select(inside.map(({ node }) => node.path));
}

export function paneClick(event: MouseEvent): void {
  focusCanvas();
  const { overview, flow } = useView.getState();
  const { selection, selectedWires, select } = useCanvas.getState();
  const hit = overview && flow ? nodeAt(scene(), flow.screenToFlowPosition({ x: event.clientX, y: event.clientY })) : null;
  if (!hit) {
    if (selection.size || selectedWires.size) select([]);
    return;
  }
  const { path } = hit.node;
  if (!event.shiftKey && !event.ctrlKey && !event.metaKey) return select([path]);
  const chosen = new Set(selection);
  if (!chosen.delete(path)) chosen.add(path);
  select(chosen);
}

/** A click on one of several that are selected leaves only that one. */
export function nodeClick(event: MouseEvent, node: CanvasNode): void {
  const { selection, select } = useCanvas.getState();
  if (event.shiftKey || event.ctrlKey || event.metaKey || selection.size < 2 || !selection.has(node.id)) return;
  select([node.id]);
}

export const nodeEnter = (_event: MouseEvent, node: CanvasNode): void => useView.setState({ hovered: node.id });
export const nodeLeave = (): void => useView.setState({ hovered: null });

export const edgeEnter = (event: MouseEvent, edge: CanvasEdge): void => wireEntered(edge.id, event);
export const edgeLeave = (): void => useView.setState({ hoveredWire: null });

/** Selection follows the keyboard from node to node. */
export function focused(event: FocusEvent): void {
  const node = (event.target as HTMLElement).closest?.<HTMLElement>(".react-flow__node");
  if (!node || node !== event.target || !node.matches(":focus-visible")) return;
  const { path } = node.dataset;
  const { selection, select } = useCanvas.getState();
  if (path && !selection.has(path)) select([path]);
  useView.setState({ hovered: path ?? null });
}

// ---------------------------------------------------------------------------------------------------------------------
// Entering, and the menu
// ---------------------------------------------------------------------------------------------------------------------

export function nodeDoubleClick(event: MouseEvent, node: CanvasNode): void {
  event.stopPropagation();
  if ((event.target as HTMLElement).closest("input, select, textarea, button, .react-flow__handle")) return;
  enter(node.data.node);
}

/** On a card in the overview: go into it, or up to it. On empty room: add something there. */
export function doubleClick(event: MouseEvent): void {
  const { overview, flow } = useView.getState();
  if (!flow || !(event.target as HTMLElement).classList.contains("react-flow__pane")) return;
  const screen = { x: event.clientX, y: event.clientY };
  const hit = overview ? nodeAt(scene(), flow.screenToFlowPosition(screen)) : null;
  if (hit?.node.enter != null) enter(hit.node);
  else if (hit) centre(hit.node.path);
  else openMenu({ screen });
}

export function nodeContextMenu(event: MouseEvent, node: CanvasNode): void {
  if ((event.target as HTMLElement).closest("input, select, textarea")) return;
  event.preventDefault();
  const { selection, select } = useCanvas.getState();
  if (!selection.has(node.id)) select([node.id]);
  useView.setState({ nodeMenu: { path: node.id, screen: { x: event.clientX, y: event.clientY } } });
}

export function edgeContextMenu(event: MouseEvent, edge: CanvasEdge): void {
  event.preventDefault();
  openOnWire({ x: event.clientX, y: event.clientY }, edge.id);
}

export function paneContextMenu(event: globalThis.MouseEvent | MouseEvent): void {
  event.preventDefault();
  openMenu({ screen: { x: event.clientX, y: event.clientY } });
}

// ---------------------------------------------------------------------------------------------------------------------
// Wiring
// ---------------------------------------------------------------------------------------------------------------------

let rewiring = false;

export const isValid = ({ source, target }: { source: string | null; target: string | null }): boolean => source !== target;

const portOf = (path: string, port: string) => ({ path, port });

export function connected({ source, target, sourceHandle, targetHandle }: Connection): void {
  if (!sourceHandle || !targetHandle) return;
  void useCanvas.getState().send({ type: "connect", source: portOf(source, sourceHandle), target: portOf(target, targetHandle) });
}

export function connectStart(_event: unknown, { nodeId, handleId, handleType }: OnConnectStartParams): void {
  const node = nodeId ? useCanvas.getState().nodes.get(nodeId) : undefined;
  if (!node || !handleType) return;
  const port = (handleType === "source" ? node.outputs : node.inputs).find(({ name }) => name === handleId);
  useView.setState({ dragging: { path: node.path, type: handleType, dtype: port?.dtype ?? "" } });
}

export function connectEnd(event: globalThis.MouseEvent | TouchEvent, state: FinalConnectionState): void {
  const { dragging } = useView.getState();
  useView.setState({ dragging: null });
  if (rewiring || !dragging || state.isValid || !state.fromHandle?.id) return;
  const screen = "changedTouches" in event ? { x: event.changedTouches[0]!.clientX, y: event.changedTouches[0]!.clientY } : { x: event.clientX, y: event.clientY };
  const end = { path: dragging.path, port: state.fromHandle.id };
  const card = document.elementFromPoint(screen.x, screen.y)?.closest<HTMLElement>(".react-flow__node-card");
  if (card) return connectToCard(card.dataset.path!, end, dragging);
  if (!state.toHandle) openMenu({ screen, end, side: dragging.type });
}

/** A wire that is let go on a card, beside its ports, means the port that is free. */
function connectToCard(path: string, end: { path: string; port: string }, { type, dtype }: { type: "source" | "target"; dtype: string }): void {
  const node = useCanvas.getState().nodes.get(path);
  const port = node && path !== end.path ? likelyPort(node, type === "source" ? "target" : "source", dtype) : null;
  if (!port) return;
  const other = portOf(path, port);
  void useCanvas.getState().send({ type: "connect", ...(type === "source" ? { source: end, target: other } : { source: other, target: end }) });
}

export function reconnectStart(): void {
  rewiring = true;
}

export function reconnected(edge: CanvasEdge, { source, target, sourceHandle, targetHandle }: Connection): void {
  if (sourceHandle && targetHandle) void rewire(edge.id, portOf(source, sourceHandle), portOf(target, targetHandle));
}

/** A wire's end that is let go on nothing takes the wire away. */
export function reconnectEnd(event: globalThis.MouseEvent | TouchEvent, edge: CanvasEdge, _type: unknown, state: FinalConnectionState): void {
  rewiring = false;
  useView.setState({ dragging: null });
  if (state.isValid || state.toHandle || !(event.target as HTMLElement).closest?.(".react-flow__pane") || (event.target as HTMLElement).closest(".react-flow__node")) return;
  const { x, y } = state.from ?? { x: 0, y: 0 };
  const flow = useView.getState().flow;
  if (!flow || !("clientX" in event)) return;
  const at = flow.screenToFlowPosition({ x: event.clientX, y: event.clientY });
  // Let go where it was taken up, it stays.
  const ends = edge.data!.runs;
  const near = (px: number, py: number) => Math.hypot(at.x - px, at.y - py) < 30;
  if (near(ends[0]!, ends[1]!) || near(ends.at(-3)!, ends.at(-1)!) || near(x, y)) return;
  useCanvas.getState().select([], [edge.id]);
  void remove(false);
}

// ---------------------------------------------------------------------------------------------------------------------
// Dropping from the palette
// ---------------------------------------------------------------------------------------------------------------------

const ENTRY = "application/x-canvas-entry";
const NEAR = [[0, 0], [0, -9], [0, 9], [-9, 0], [9, 0]] as const;

/** The wire at a point of the screen, or close by. */
function wireAt(x: number, y: number): string | null {
  for (const [dx, dy] of NEAR) {
    const [top] = document.elementsFromPoint(x + dx, y + dy);
    const wire = top?.closest<SVGElement>("[data-wire]");
    if (wire) return wire.dataset.wire ?? null;
  }
  return null;
}

export function dragOver(event: DragEvent): void {
  if (!event.dataTransfer.types.includes(ENTRY)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
  const { flow, dropWire, dropFrame } = useView.getState();
  const wire = wireAt(event.clientX, event.clientY);
  const level = useCanvas.getState().path;
  const spot = flow ? frameAt(scene(), level, flow.screenToFlowPosition({ x: event.clientX, y: event.clientY })) : null;
  const frame = wire || !spot || spot.frame === level ? null : spot.frame;
  if (wire !== dropWire || frame !== dropFrame) useView.setState({ dropWire: wire, dropFrame: frame });
}

export function dragLeave(event: DragEvent): void {
  if (!event.currentTarget.contains(event.relatedTarget as globalThis.Node | null)) useView.setState({ dropWire: null, dropFrame: null });
}

export function dropped(event: DragEvent): void {
  const what = event.dataTransfer.getData(ENTRY);
  if (!what) return;
  event.preventDefault();
  const wire = wireAt(event.clientX, event.clientY);
  useView.setState({ dropWire: null, dropFrame: null });
  void drop(what, { x: event.clientX, y: event.clientY }, wire);
}
