/** What can be done on the canvas, by mouse, key or button. */
import type { MouseEvent } from "react";

import { portX } from "../layout/types";
import type { NodeView, Port } from "../protocol";
import { useCanvas, type Position } from "../store";
import { layOutAgain } from "./layouter";
import { portNamed } from "./measure";
import { boundsOf, frameAt, scene, type Bounds, type Placed } from "./scene";
import { useView, type XY } from "./view";

const state = () => useCanvas.getState();
const flow = () => useView.getState().flow;

// ---------------------------------------------------------------------------------------------------------------------
// Levels and frames
// ---------------------------------------------------------------------------------------------------------------------

export function enter(node: NodeView): void {
  if (node.enter != null) void state().look(node.enter);
}

/** Out of this level, into the one around it. */
export function leave(): void {
  const above = state().crumbs.at(-2);
  if (above) void state().look(above.path);
}

/** Frames that are opened or closed: the view follows them once they are laid out. */
let toShow: string | null = null;
export const takeToShow = (): string | null => {
  const path = toShow;
  toShow = null;
  return path;
};

export function expand(path: string): void {
  toShow = path;
  void state().look(state().path, [...state().expanded, path]);
}

export function collapse(path: string): void {
  toShow = path;
  void state().look(state().path, state().expanded.filter((frame) => frame !== path && !frame.startsWith(`${path}.`)));
}

// ---------------------------------------------------------------------------------------------------------------------
// The view
// ---------------------------------------------------------------------------------------------------------------------

/** Room for the bars at the canvas' edges; the one at the top has two lines where it is narrow. */
const MARGIN = { side: 36, bottom: 60 };
const marginTop = () => 28 + (document.querySelector<HTMLElement>(".cn-crumbs")?.offsetHeight ?? 34);
export const LEAST_ZOOM = 0.002;
/** Below this, cards cannot be read: a level that is larger begins at its top instead. */
export const READABLE = 0.42;

/** For how long the view glides; not at all for those who asked for no motion. */
const glide = (milliseconds: number): { duration: number } => ({ duration: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : milliseconds });

function room(): { width: number; height: number } {
  const pane = document.querySelector(".cn-flow");
  return { width: pane?.clientWidth ?? 800, height: pane?.clientHeight ?? 600 };
}

function frameFor(bounds: Bounds, most: number): { x: number; y: number; zoom: number } {
  const { width, height } = room();
  const [wide, high] = [bounds.right - bounds.left, bounds.bottom - bounds.top];
  const top = marginTop();
  const zoom = Math.min(most, (width - 2 * MARGIN.side) / Math.max(wide, 1), (height - top - MARGIN.bottom) / Math.max(high, 1));
  const clamped = Math.max(zoom, LEAST_ZOOM);
  return {
    zoom: clamped,
    x: width / 2 - ((bounds.left + bounds.right) / 2) * clamped,
    y: top + (height - top - MARGIN.bottom) / 2 - ((bounds.top + bounds.bottom) / 2) * clamped,
  };
}

/** All of the level, or all that is selected. */
export function fit(duration = 240, least = 0): void {
  const bounds = boundsOf(scene());
  const view = bounds && frameFor(bounds, 1.1);
  if (view && view.zoom >= least) void flow()?.setViewport(view, glide(duration));
}

export function allInView(): boolean {
  const bounds = boundsOf(scene());
  const instance = flow();
  if (!bounds || !instance) return false;
  const { x, y, zoom } = instance.getViewport();
  const { width, height } = room();
  return bounds.left * zoom + x >= 0 && bounds.right * zoom + x <= width && bounds.top * zoom + y >= 0 && bounds.bottom * zoom + y <= height;
}

/** What one sees first of a level: all of it, if that can be read; else its beginning. */
export function fitFirst(): void {
  const bounds = boundsOf(scene());
  if (!bounds) return;
  const all = frameFor(bounds, 1);
  if (all.zoom >= READABLE) return void flow()?.setViewport(all);
  const { width } = room();
  const wide = bounds.right - bounds.left;
  const zoom = Math.min(0.8, Math.max(READABLE, (width - 2 * MARGIN.side) / wide));
  const first = scene().all.find(({ node }) => node.kind !== "frame");
  const middle = wide * zoom < width ? (bounds.left + bounds.right) / 2 : first ? first.left + first.width / 2 : bounds.left;
  void flow()?.setViewport({ zoom, x: width / 2 - middle * zoom, y: marginTop() - bounds.top * zoom });
}

/** Bring a node into view, and large enough to be read. */
export function centre(path: string, duration = 260): void {
  const placed = scene().byPath.get(path);
  const instance = flow();
  if (!placed || !instance) return;
  if (placed.height > 600 || placed.width > 900) return showFrame(path);
  const zoom = Math.max(instance.getZoom(), 0.6);
  void instance.setCenter(placed.left + placed.width / 2, placed.top + placed.height / 2, { zoom, ...glide(duration) });
}

/** Whether a node is in view as a whole. */
export function inView({ left, top, width, height }: Placed): boolean {
  const instance = flow();
  if (!instance) return true;
  const { x, y, zoom } = instance.getViewport();
  const size = room();
  return left * zoom + x >= 0 && top * zoom + y >= 40 && (left + width) * zoom + x <= size.width && (top + height) * zoom + y <= size.height;
}

/** Move the view so that a frame that was just opened can be seen; what was closed leaves room to come closer. */
export function showFrame(path: string): void {
  const placed = scene().byPath.get(path);
  const instance = flow();
  if (!placed || !instance) return;
  if (placed.node.kind !== "frame" && allInView() && instance.getZoom() < 0.6) return fit(260);
  if (inView(placed)) return;
  const bounds = boundsOf(scene(), [path])!;
  const view = frameFor(bounds, instance.getZoom());
  if (view.zoom >= READABLE) return void instance.setViewport(view, glide(260));
  const { width } = room();
  const zoom = Math.max(READABLE, Math.min(instance.getZoom(), (width - 80) / placed.width));
  void instance.setViewport({ zoom, x: width / 2 - (placed.left + placed.width / 2) * zoom, y: marginTop() - placed.top * zoom }, glide(260));
}

export const zoomBy = (factor: number): void => void flow()?.zoomTo(flow()!.getZoom() * factor, glide(160));

/** Hand every node back to the layout. */
export async function arrange(): Promise<void> {
  const placed = [...state().nodes.values()].filter((node) => node.position);
  if (placed.length) await state().send({ type: "place", positions: Object.fromEntries(placed.map((node) => [node.path, null])) });
  else layOutAgain();
  requestAnimationFrame(() => fit());
}

// ---------------------------------------------------------------------------------------------------------------------
// Places
// ---------------------------------------------------------------------------------------------------------------------

/** Draw nodes at new places at once. */
export function draft(moves: Iterable<[string, XY]>): void {
  const drafts = new Map(useView.getState().drafts);
  for (const [path, spot] of moves) drafts.set(path, spot);
  useView.setState({ drafts });
}

/** Where a dragged card would make a wire of its straight, if it is nearly so. */
export function straightened(path: string, at: XY): XY {
  const { all, byPath } = scene();
  const placed = byPath.get(path);
  if (!placed || all.length > 2000) return at;
  const near = 7 / (flow()?.getZoom() ?? 1);
  const moved = at.x - placed.x;
  for (const wire of state().wires.values()) {
    if (wire.source.path !== path && wire.target.path !== path) continue;
    const source = byPath.get(wire.source.path);
    const target = byPath.get(wire.target.path);
    if (!source || !target || source === target) continue;
    const x0 = source.left + portX(source.width, portNamed(source.node, "source", wire.source.port));
    const x1 = target.left + portX(target.width, portNamed(target.node, "target", wire.target.port));
    const off = source === placed ? x1 - x0 - moved : x0 - x1 - moved;
    if (Math.abs(off) < near) return { x: at.x + off, y: at.y };
  }
  return at;
}

/** Tell the server where nodes were moved to; what was drawn meanwhile is let go once it agrees. */
export async function place(paths: Iterable<string>): Promise<void> {
  const { drafts } = useView.getState();
  const sent = new Map([...paths].flatMap((path) => (drafts.has(path) ? [[path, drafts.get(path)!] as const] : [])));
  if (!sent.size) return;
  const positions = Object.fromEntries([...sent].map(([path, { x, y }]): [string, Position] => [path, [Math.round(x), Math.round(y)]]));
  await state().send({ type: "place", positions });
  const rest = new Map(useView.getState().drafts);
  for (const [path, spot] of sent) if (rest.get(path) === spot) rest.delete(path);
  useView.setState({ drafts: rest });
}

// ---------------------------------------------------------------------------------------------------------------------
// The add menu
// ---------------------------------------------------------------------------------------------------------------------

interface Wish {
  /** Where on the screen. */
  screen: XY;
  end?: Port;
  side?: "source" | "target";
  wire?: Port;
  /** The level or frame that gets the node; default: the one that is there. */
  frame?: string;
  /** Whether the new node is to stand where the menu is; else the layout places it. */
  here?: boolean;
  existingFirst?: boolean;
}

/** About half a card: what is added lands with its middle at the pointer. */
const HALF = { x: 96, y: 24 };

/** A node's place, were it dropped at a point of the screen. */
export function spotAt(screen: XY): { frame: string; position: Position } {
  const spot = frameAt(scene(), state().path, flow()?.screenToFlowPosition(screen) ?? screen);
  return { frame: spot.frame, position: [Math.round(spot.x - HALF.x), Math.round(spot.y - HALF.y)] };
}

export function openMenu({ screen, end, side, wire, frame, here = true, existingFirst = false }: Wish): void {
  const spot = spotAt(screen);
  const menu = { screen, frame: frame ?? spot.frame, position: spot.position, end: end ?? null, side: side ?? null, wire: wire ?? null, offers: null };
  useView.setState({ menuHere: here && !wire, existingFirst });
  useCanvas.setState({ menu });
  if (!end || !side) return;
  void state().send({ type: "offers", end, side }).then((reply) => {
    const open = state().menu;
    if (open?.screen !== screen) return;
    useCanvas.setState({ menu: reply.ok ? { ...open, offers: reply.offers ?? [] } : null });
  });
}

const frameOf = (path: string): string => state().nodes.get(path)?.parent ?? state().path;

/** A click on a port offers what it can be connected to. */
export function openPort(event: MouseEvent, path: string, port: string, type: "source" | "target"): void {
  event.stopPropagation();
  openMenu({ screen: { x: event.clientX + 10, y: event.clientY + 10 }, end: { path, port }, side: type, frame: frameOf(path), here: false, existingFirst: true });
}

/** Connect the selected node by keys. */
export function openConnect(path: string, side: "source" | "target"): void {
  const placed = scene().byPath.get(path);
  const port = (side === "source" ? placed?.node.outputs : placed?.node.inputs)?.[0];
  const instance = flow();
  if (!placed || !port || !instance) return;
  if (!inView(placed)) centre(path, 0);
  const screen = instance.flowToScreenPosition({ x: placed.left + placed.width / 2, y: side === "source" ? placed.top + placed.height : placed.top });
  openMenu({ screen: { x: screen.x + 10, y: screen.y + 10 }, end: { path, port: port.name }, side, frame: frameOf(path), here: false, existingFirst: true });
}

/** Open the menu on a wire: what is chosen is put on it. */
export function openOnWire(screen: XY, wireId: string): void {
  const wire = state().wires.get(wireId);
  if (wire) openMenu({ screen, wire: wire.target, frame: frameOf(wire.target.path) });
}

// ---------------------------------------------------------------------------------------------------------------------
// Building
// ---------------------------------------------------------------------------------------------------------------------

/** Add an entry of the palette where it was dropped: on a wire, or at a point. */
export async function drop(what: string, screen: XY, wireId: string | null): Promise<void> {
  const wire = wireId ? state().wires.get(wireId) : undefined;
  if (wire) return void (await state().send({ type: "insert", what, path: frameOf(wire.target.path), wire: wire.target }));
  const { frame, position } = spotAt(screen);
  await state().send({ type: "insert", what, path: frame, position });
}

export async function remove(reconnect: boolean): Promise<void> {
  const { selection, selectedWires, wires, nodes } = state();
  const paths = [...selection].filter((path) => nodes.has(path));
  // A wire goes with its nodes; by itself it leaves its port open.
  const loose = [...selectedWires].flatMap((id) => wires.get(id) ?? []).filter((wire) => !selection.has(wire.target.path));
  if (!paths.length && !loose.length) return;
  await state().send({ type: "delete", paths, wires: loose.map((wire) => wire.target), reconnect });
}

/** Give a wire another end. */
export async function rewire(wireId: string, source: Port, target: Port): Promise<void> {
  await state().send({ type: "connect", source, target, instead: state().wires.get(wireId)?.target ?? null });
}

/** The free port of a card that a wire dropped on it most likely means. */
export function likelyPort(node: NodeView, side: "source" | "target", dtype: string): string | null {
  const ports = side === "target" ? node.inputs : node.outputs;
  const fits = ports.filter((port) => !dtype || !port.dtype || port.dtype === dtype);
  const chosen = (side === "target" ? fits.find((port) => port.wired === false) : undefined) ?? fits[0] ?? ports[0];
  return chosen?.name ?? null;
}
