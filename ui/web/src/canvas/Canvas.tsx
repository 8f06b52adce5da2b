/** The node canvas: a view of one level, and the gestures that ask the server to change it. */
import {
  Background, BackgroundVariant, ReactFlow, ReactFlowProvider, SelectionMode, useStore, type Connection, type EdgeChange, type FinalConnectionState, type NodeChange,
  type OnConnectStartParams,
} from "@xyflow/react";
import "@xyflow/react/dist/base.css";
import { memo, useEffect, useRef, useState, type DragEvent, type FocusEvent, type MouseEvent, type ReactNode } from "react";

import { listenForKeys, pointer } from "../keys";
import { useCanvas } from "../store";
import { AddMenu } from "./AddMenu";
import { Breadcrumbs } from "./Breadcrumbs";
import { Bubble } from "./Bubble";
import "./canvas.css";
import { Card } from "./Card";
import { allInView, centre, draft, drop, enter, fit, fitFirst, inView, LEAST_ZOOM, likelyPort, openMenu, openOnWire, place, READABLE, remove, rewire, showFrame, straightened, takeToShow } from "./commands";
import { Controls } from "./Controls";
import { useElements, type CanvasEdge, type CanvasNode } from "./elements";
import { focusCanvas } from "./focus";
import { Frame } from "./Frame";
import { followLayout } from "./layouter";
import { MEASURES } from "./measure";
import { Minimap } from "./Minimap";
import { NodeMenu } from "./NodeMenu";
import { Overview, OverviewTip } from "./Overview";
import { followScene, frameAt, nodeAt, scene, useScene } from "./scene";
import { useView } from "./view";
import { Wire } from "./Wire";
import { WireTip, wireEntered } from "./WireTip";

const NODE_TYPES = { card: Card, frame: Frame };
const EDGE_TYPES = { wire: Wire };
const ENTRY = "application/x-canvas-entry";
const SEVERAL = ["Shift", "Meta", "Control"];

export function Canvas(): ReactNode {
  useEffect(() => {
    const ends = [followScene(), followLayout(), listenForKeys()];
    return () => ends.forEach((end) => end());
  }, []);
  const dragging = useView((state) => state.dragging);
  const moving = useView((state) => state.moving);
  return (
    <ReactFlowProvider>
      <div className="cn-canvas" style={MEASURES}>
        <div
          className={`cn-flow${moving ? " cn-moving" : ""}`} tabIndex={-1} data-dragging={dragging?.type} data-dtype={dragging?.dtype}
          onDoubleClick={doubleClick} onFocus={focused} onDragOver={dragOver} onDragLeave={dragLeave} onDrop={dropped}
        >
          <Overview />
          <Flow />
          <Detail />
        </div>
        <Breadcrumbs />
        <Controls />
        <Minimap />
        <Bubble />
        <WireTip />
        <OverviewTip />
        <Notices />
        <AddMenu />
        <NodeMenu />
      </div>
    </ReactFlowProvider>
  );
}

/** React Flow itself. What it tells of is drawn at once and asked of the server; what it draws comes from the store. */
const Flow = memo(function Flow(): ReactNode {
  const { nodes, edges } = useElements();
  return (
    <ReactFlow<CanvasNode, CanvasEdge>
      nodes={nodes} edges={edges} nodeTypes={NODE_TYPES} edgeTypes={EDGE_TYPES} onInit={begun}
      onlyRenderVisibleElements zIndexMode="manual" minZoom={LEAST_ZOOM} maxZoom={2.5} zoomOnDoubleClick={false} nodeDragThreshold={3} connectionRadius={28}
      paneClickDistance={3} nodeClickDistance={3} connectOnClick={false} edgesFocusable={false} disableKeyboardA11y deleteKeyCode={null}
      selectionKeyCode="Shift" multiSelectionKeyCode={SEVERAL} panActivationKeyCode={null} selectionMode={SelectionMode.Partial} reconnectRadius={12}
      onNodesChange={nodesChange} onEdgesChange={edgesChange} onNodeDragStop={dragged} onSelectionDragStop={dragged}
      onSelectionStart={boxBegun} onSelectionEnd={boxed}
      onNodeClick={nodeClick} onNodeDoubleClick={nodeDoubleClick} onNodeContextMenu={nodeContextMenu} onNodeMouseEnter={nodeEnter} onNodeMouseLeave={nodeLeave} onEdgeMouseEnter={edgeEnter} onEdgeMouseLeave={edgeLeave} onEdgeContextMenu={edgeContextMenu} onPaneContextMenu={paneContextMenu} onPaneClick={paneClick}
      onConnect={connected} onConnectStart={connectStart} onConnectEnd={connectEnd} isValidConnection={isValid}
      onReconnect={reconnected} onReconnectStart={reconnectStart} onReconnectEnd={reconnectEnd}
      aria-label="Graph of this level"
    >
      <Background variant={BackgroundVariant.Dots} gap={24} size={1.4} />
      <Levels />
    </ReactFlow>
  );
});

function begun(flow: NonNullable<ReturnType<typeof useView.getState>["flow"]>): void {
  useView.setState({ flow });
  Object.assign(window, { __canvas: { useCanvas, useView, useScene, flow } });
}

// ---------------------------------------------------------------------------------------------------------------------
// What follows the view
// ---------------------------------------------------------------------------------------------------------------------

/** Zooms at which drawing changes; on the way back a little later, so that it does not flicker there. */
const FAR = 0.3;
const LIGHT = 0.4;
const MOST_CARDS = 320;

/** How much of the cards is drawn: all, without fields, or none of them on a 2-D canvas. */
function Detail(): ReactNode {
  const mode = useStore(({ transform, width, height }) => {
    const zoom = transform[2];
    const { overview, light } = useView.getState();
    const crowded = zoom < 0.9 && scene().all.length > MOST_CARDS && crowd(transform, width, height) > (overview ? MOST_CARDS * 0.85 : MOST_CARDS);
    const far = zoom < (overview ? FAR + 0.02 : FAR) || crowded;
    return `${far ? "far" : "near"} ${zoom < (light ? LIGHT + 0.03 : LIGHT) ? "light" : "full"}`;
  });
  useEffect(() => {
    const overview = mode.startsWith("far");
    const light = mode.endsWith("light");
    const now = useView.getState();
    if (now.overview !== overview || now.light !== light) useView.setState({ overview, light });
  }, [mode]);
  return null;
}

function crowd([x, y, zoom]: readonly [number, number, number], width: number, height: number): number {
  const [left, top, right, bottom] = [-x / zoom, -y / zoom, (width - x) / zoom, (height - y) / zoom];
  let count = 0;
  for (const placed of scene().all) {
    if (placed.left < right && placed.left + placed.width > left && placed.top < bottom && placed.top + placed.height > top) count++;
  }
  return count;
}

/** Move the view when another level is shown, a frame is opened, or something is to be looked at. */
function Levels(): ReactNode {
  const layout = useView((state) => state.layout);
  const flow = useView((state) => state.flow);
  const goal = useCanvas((state) => state.goal);
  const fromServer = useCanvas((state) => state.selection);
  const shown = useRef<string | null>(null);
  const whole = useRef(false);
  const sized = useStore((state) => state.width > 0);

  useEffect(() => {
    if (!layout || !flow || !sized) return;
    const open = takeToShow();
    if (shown.current !== layout.level) {
      const first = shown.current === null;
      shown.current = layout.level;
      fitFirst();
      // The focus went with the node that was entered: keep it on the canvas.
      if (!first) setTimeout(() => document.activeElement === document.body && focusCanvas(), 80);
    } else if (open) showFrame(open);
    // Who saw all of it goes on seeing all of it.
    else if (whole.current && !allInView()) fit(260, READABLE);
    whole.current = allInView();
  }, [layout, flow, sized]);
  const zoomed = useStore((state) => state.transform);
  useEffect(() => { whole.current = allInView(); }, [zoomed]);

  useEffect(() => {
    if (!goal || !flow || !scene().byPath.has(goal)) return;
    useCanvas.setState({ goal: null });
    // A level that just came is fitted first.
    requestAnimationFrame(() => centre(goal));
  }, [goal, flow, layout]);

  // What was just made is selected by the server: it may stand outside the view.
  const before = useRef(fromServer);
  useEffect(() => {
    const known = before.current;
    before.current = fromServer;
    const [path] = fromServer;
    if (fromServer.size !== 1 || known.has(path!)) return;
    const placed = scene().byPath.get(path!);
    if (placed && placed.node.kind !== "frame" && !inView(placed) && !pointer.pressed) centre(path!);
  }, [fromServer, layout]);
  return null;
}

// ---------------------------------------------------------------------------------------------------------------------
// Selecting and moving
// ---------------------------------------------------------------------------------------------------------------------

let boxing = false;

function nodesChange(changes: NodeChange<CanvasNode>[]): void {
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

function edgesChange(changes: EdgeChange<CanvasEdge>[]): void {
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

function dragged(_event: unknown, ...rest: unknown[]): void {
  const nodes = rest.find((part): part is CanvasNode[] => Array.isArray(part));
  if (nodes) void place(nodes.map((node) => node.id));
}

let corner = { x: 0, y: 0 };

function boxBegun(event: MouseEvent): void {
  boxing = true;
  corner = { x: event.clientX, y: event.clientY };
}

/** In the overview React Flow has no nodes to take: the box is read from the scene. */
function boxed(event: MouseEvent): void {
  // The last changes of the box come after its end.
  setTimeout(() => { boxing = false; });
  const { flow, overview } = useView.getState();
  if (!overview || !flow) return;
  const [a, b] = [flow.screenToFlowPosition(corner), flow.screenToFlowPosition({ x: event.clientX, y: event.clientY })];
  const [left, right, top, bottom] = [Math.min(a.x, b.x), Math.max(a.x, b.x), Math.min(a.y, b.y), Math.max(a.y, b.y)];
  const inside = scene().all.filter((placed) => placed.node.kind !== "frame" && placed.left < right && placed.left + placed.width > left && placed.top < bottom && placed.top + placed.height > top);
  useCanvas.getState().select(inside.map(({ node }) => node.path));
}

function paneClick(event: MouseEvent): void {
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
function nodeClick(event: MouseEvent, node: CanvasNode): void {
  const { selection, select } = useCanvas.getState();
  if (event.shiftKey || event.ctrlKey || event.metaKey || selection.size < 2 || !selection.has(node.id)) return;
  select([node.id]);
}

const nodeEnter = (_event: MouseEvent, node: CanvasNode): void => useView.setState({ hovered: node.id });
const nodeLeave = (): void => useView.setState({ hovered: null });

const edgeEnter = (event: MouseEvent, edge: CanvasEdge): void => wireEntered(edge.id, event);
const edgeLeave = (): void => useView.setState({ hoveredWire: null });

/** Selection follows the keyboard from node to node. */
function focused(event: FocusEvent): void {
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

function nodeDoubleClick(event: MouseEvent, node: CanvasNode): void {
  event.stopPropagation();
  if ((event.target as HTMLElement).closest("input, select, textarea, button, .react-flow__handle")) return;
  enter(node.data.node);
}

/** On a card in the overview: go into it, or up to it. On empty room: add something there. */
function doubleClick(event: MouseEvent): void {
  const { overview, flow } = useView.getState();
  if (!flow || !(event.target as HTMLElement).classList.contains("react-flow__pane")) return;
  const screen = { x: event.clientX, y: event.clientY };
  const hit = overview ? nodeAt(scene(), flow.screenToFlowPosition(screen)) : null;
  if (hit?.node.enter != null) enter(hit.node);
  else if (hit) centre(hit.node.path);
  else openMenu({ screen });
}

function nodeContextMenu(event: MouseEvent, node: CanvasNode): void {
  if ((event.target as HTMLElement).closest("input, select, textarea")) return;
  event.preventDefault();
  const { selection, select } = useCanvas.getState();
  if (!selection.has(node.id)) select([node.id]);
  useView.setState({ nodeMenu: { path: node.id, screen: { x: event.clientX, y: event.clientY } } });
}

function edgeContextMenu(event: MouseEvent, edge: CanvasEdge): void {
  event.preventDefault();
  openOnWire({ x: event.clientX, y: event.clientY }, edge.id);
}

function paneContextMenu(event: globalThis.MouseEvent | MouseEvent): void {
  event.preventDefault();
  openMenu({ screen: { x: event.clientX, y: event.clientY } });
}

// ---------------------------------------------------------------------------------------------------------------------
// Wiring
// ---------------------------------------------------------------------------------------------------------------------

let rewiring = false;

const isValid = ({ source, target }: { source: string | null; target: string | null }): boolean => source !== target;

const portOf = (path: string, port: string) => ({ path, port });

function connected({ source, target, sourceHandle, targetHandle }: Connection): void {
  if (!sourceHandle || !targetHandle) return;
  void useCanvas.getState().send({ type: "connect", source: portOf(source, sourceHandle), target: portOf(target, targetHandle) });
}

function connectStart(_event: unknown, { nodeId, handleId, handleType }: OnConnectStartParams): void {
  const node = nodeId ? useCanvas.getState().nodes.get(nodeId) : undefined;
  if (!node || !handleType) return;
  const port = (handleType === "source" ? node.outputs : node.inputs).find(({ name }) => name === handleId);
  useView.setState({ dragging: { path: node.path, type: handleType, dtype: port?.dtype ?? "" } });
}

function connectEnd(event: globalThis.MouseEvent | TouchEvent, state: FinalConnectionState): void {
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

function reconnectStart(): void {
  rewiring = true;
}

function reconnected(edge: CanvasEdge, { source, target, sourceHandle, targetHandle }: Connection): void {
  if (sourceHandle && targetHandle) void rewire(edge.id, portOf(source, sourceHandle), portOf(target, targetHandle));
}

/** A wire's end that is let go on nothing takes the wire away. */
function reconnectEnd(event: globalThis.MouseEvent | TouchEvent, edge: CanvasEdge, _type: unknown, state: FinalConnectionState): void {
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

function dragOver(event: DragEvent): void {
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

function dragLeave(event: DragEvent): void {
  if (!event.currentTarget.contains(event.relatedTarget as globalThis.Node | null)) useView.setState({ dropWire: null, dropFrame: null });
}

function dropped(event: DragEvent): void {
  const what = event.dataTransfer.getData(ENTRY);
  if (!what) return;
  event.preventDefault();
  const wire = wireAt(event.clientX, event.clientY);
  useView.setState({ dropWire: null, dropFrame: null });
  void drop(what, { x: event.clientX, y: event.clientY }, wire);
}

// ---------------------------------------------------------------------------------------------------------------------

/** What to do in an empty level; that a large one is being laid out. */
function Notices(): ReactNode {
  const ready = useCanvas((state) => state.revision >= 0);
  const empty = useCanvas((state) => state.nodes.size === 0 || [...state.nodes.values()].every((node) => node.kind === "input" || node.kind === "output"));
  const busy = useView((state) => state.busy);
  const far = useView((state) => state.overview);
  const [told, setTold] = useState(false);
  useEffect(() => {
    if (!far || told) return;
    const timer = setTimeout(() => setTold(true), 6000);
    return () => clearTimeout(timer);
  }, [far, told]);
  if (!ready) return <div className="cn-notice" role="status"><i className="cn-spinner" />Opening the model…</div>;
  if (busy) return <div className="cn-notice" role="status"><i className="cn-spinner" />Laying out…</div>;
  if (empty) {
    return (
      <div className="cn-empty" data-testid="empty">
        <b>Nothing here yet</b>
        <p>Drag something from the palette, or press <kbd>Tab</kbd> to add a node.</p>
      </div>
    );
  }
  if (far && !told) return <div className="cn-notice cn-hint">Double-click a node to come closer.</div>;
  return null;
}
