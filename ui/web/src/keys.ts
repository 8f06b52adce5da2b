/** The canvas' keys. One listener on the window: focus moves little on a canvas, and keys are to work all the same. */
import { copy, cut, duplicate, paste } from "./canvas/clipboard";
import { arrange, centre, draft, enter, fit, inView, leave, openConnect, openMenu, place, remove, zoomBy } from "./canvas/commands";
import { focusNode } from "./canvas/focus";
import { scene, type Placed } from "./canvas/scene";
import { useView } from "./canvas/view";
import { FRAME } from "./layout/types";
import { useCanvas } from "./store";

/** Where the pointer is, and whether it is over the canvas. */
export const pointer = { x: 0, y: 0, over: false, pressed: false };

const state = () => useCanvas.getState();
const app = () => document.querySelector<HTMLElement>(".cv-app");
const canvas = () => document.querySelector<HTMLElement>(".cn-flow");

/** Whether the last thing done on the page was done in the editor: keys without a focus are then meant for it. */
let inside = true;

export function listenForKeys(): () => void {
  const followed = (event: Event) => { inside = app()?.contains(event.target as Node) ?? false; };
  const moved = (event: PointerEvent) => {
    const over = canvas()?.contains(event.target as Node) ?? false;
    Object.assign(pointer, { x: event.clientX, y: event.clientY, over, pressed: event.buttons > 0 });
  };
  const ends = [
    listen("keydown", pressed), listen("paste", pasted), listen("pointerdown", followed, true), listen("focusin", followed, true),
    listen("pointermove", moved, true), listen("pointerdown", moved, true), listen("pointerup", moved, true),
  ];
  return () => ends.forEach((end) => end());
}

function listen<K extends keyof WindowEventMap>(type: K, act: (event: WindowEventMap[K]) => void, capture = false): () => void {
  window.addEventListener(type, act, capture);
  return () => window.removeEventListener(type, act, capture);
}

// ---------------------------------------------------------------------------------------------------------------------
// Whether a key is meant for the canvas
// ---------------------------------------------------------------------------------------------------------------------

const SILENT = new Set(["checkbox", "radio", "range", "button", "submit"]);

function typing(element: Element | null): boolean {
  if (element instanceof HTMLInputElement) return !SILENT.has(element.type);
  return element instanceof HTMLTextAreaElement || element instanceof HTMLSelectElement || (element instanceof HTMLElement && element.isContentEditable);
}

/** Lists and trees have keys of their own. */
const ownKeys = (element: Element | null) => Boolean(element?.closest('[role="tree"], [role="listbox"], [role="menu"], [role="dialog"], [role="tablist"]'));

interface Place {
  /** The focus is on the canvas, one of its nodes, or nowhere. */
  onCanvas: boolean;
  /** It is on something that Enter, the arrows and the space bar act on. */
  onControl: boolean;
}

function meant(): Place | null {
  const root = app();
  const focus = document.activeElement;
  if (!root || !root.getClientRects().length || typing(focus)) return null;
  const nowhere = !focus || focus === document.body;
  if (nowhere ? !inside : !root.contains(focus)) return null;
  const { menu, dialog } = state();
  if (menu || dialog || useView.getState().nodeMenu) return null;
  const onCanvas = nowhere || (canvas()?.contains(focus) ?? false);
  const onControl = !nowhere && focus.matches("button, a, input, select, summary, [role='treeitem'], [role='option'], [role='tab']");
  if (!onCanvas && ownKeys(focus) && !onControl) return null;
  return { onCanvas, onControl };
}

// ---------------------------------------------------------------------------------------------------------------------
// Keys
// ---------------------------------------------------------------------------------------------------------------------

function pressed(event: KeyboardEvent): void {
  if (event.defaultPrevented || event.isComposing) return;
  const place = meant();
  if (!place) return;
  const chord = event.ctrlKey || event.metaKey;
  const done = chord ? withControl(event, place) : plain(event, place);
  if (done) event.preventDefault();
}

function withControl(event: KeyboardEvent, { onCanvas }: Place): boolean {
  const { send, select, selection } = state();
  switch (event.key.toLowerCase()) {
    case "z": return run(send({ type: event.shiftKey ? "redo" : "undo" }));
    case "y": return run(send({ type: "redo" }));
    case "f": return run(useCanvas.setState({ dialog: "find" }));
    case "a": return onCanvas && run(select([...scene().all].filter(({ node }) => node.kind !== "frame").map(({ node }) => node.path)));
    // Text that is marked somewhere on the page is what people then mean to copy.
    case "c": return selection.size > 0 && !marked() && run(copy());
    case "x": return selection.size > 0 && !marked() && run(cut());
    case "d": return selection.size > 0 && run(duplicate());
    default: return false;
  }
}

const run = (_done: unknown): true => true;
const marked = () => (window.getSelection()?.toString() ?? "") !== "";

function pasted(event: ClipboardEvent): void {
  if (event.defaultPrevented || !meant()) return;
  event.preventDefault();
  void paste(event.clipboardData?.getData("text/plain") ?? "", pointer.over ? { x: pointer.x, y: pointer.y } : null);
}

function plain(event: KeyboardEvent, { onCanvas, onControl }: Place): boolean {
  const { key } = event;
  if (key.startsWith("Arrow")) return onCanvas && !onControl && (event.altKey ? run(walk(key)) : nudge(key, event.shiftKey));
  if (event.altKey) return false;
  switch (key) {
    case "Tab": return !event.shiftKey && onCanvas && openHere();
    case "Escape": return escape();
    case "Delete": return run(remove(!event.shiftKey));
    case "Backspace": return onCanvas && run(remove(!event.shiftKey));
    case "Enter": return onCanvas && !onControl && enterOrEdit();
    case "?": return run(useCanvas.setState({ dialog: "keys" }));
    case "+": case "=": return onCanvas && run(zoomBy(1.3));
    case "-": return onCanvas && run(zoomBy(1 / 1.3));
  }
  if (onControl && !onCanvas && ownKeys(document.activeElement)) return false; // letters find entries there
  switch (key.toLowerCase()) {
    case "f": return run(fit());
    case "l": return run(arrange());
    case "s": return run(useCanvas.setState({ showShapes: !state().showShapes }));
    case "n": return run(follow(1));
    case "p": return run(follow(-1));
    case "w": return nextWire();
    case "c": return connect(event.shiftKey ? "target" : "source");
    default: return false;
  }
}

/** The tab key opens the menu only on the canvas itself; between nodes and panels it moves the focus as everywhere. */
function openHere(): boolean {
  const focus = document.activeElement;
  const box = canvas()?.getBoundingClientRect();
  if (!box || (focus !== canvas() && !(pointer.over && (!focus || focus === document.body)))) return false;
  openMenu({ screen: pointer.over ? { x: pointer.x, y: pointer.y } : { x: box.left + box.width / 2, y: box.top + box.height / 3 } });
  return true;
}

function escape(): boolean {
  const { selection, selectedWires, select } = state();
  if (selection.size || selectedWires.size) select([]);
  else leave();
  return true;
}

function only(): Placed | null {
  const [path] = state().selection;
  return state().selection.size === 1 ? (scene().byPath.get(path!) ?? null) : null;
}

/** Into what has an inside; for others, to their settings. */
function enterOrEdit(): boolean {
  const chosen = only();
  if (!chosen) return false;
  if (chosen.node.enter != null) enter(chosen.node);
  else document.querySelector<HTMLElement>("[data-inspector] .cv-field :is(input, select, [role='switch'])")?.focus();
  return true;
}

function connect(side: "source" | "target"): boolean {
  const chosen = only();
  if (!chosen) return false;
  openConnect(chosen.node.path, side);
  return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Walking
// ---------------------------------------------------------------------------------------------------------------------

function goTo(path: string | undefined): void {
  const placed = path === undefined ? undefined : scene().byPath.get(path);
  if (!placed || path === undefined) return;
  state().select([path]);
  if (!inView(placed)) centre(path, 120);
  focusNode(path);
}

const readers = (path: string) => [...state().wires.values()].filter((wire) => wire.source.path === path).map((wire) => wire.target.path);
const sources = (path: string) => [...state().wires.values()].filter((wire) => wire.target.path === path).map((wire) => wire.source.path);

/** To the next node along the wires, or the one before; from where there is none, in reading order. */
function follow(step: 1 | -1): void {
  const chosen = only();
  const all = scene().all.filter(({ node }) => node.kind !== "frame").map(({ node }) => node.path);
  if (!chosen) return goTo(step === 1 ? all[0] : all.at(-1));
  const { path } = chosen.node;
  const near = step === 1 ? readers(path) : sources(path);
  goTo(near[0] ?? all[all.indexOf(path) + step]);
}

/** Up and down along the wires; left and right to the neighbour. */
function walk(key: string): void {
  const chosen = only();
  if (!chosen || key === "ArrowDown" || key === "ArrowUp") return follow(key === "ArrowUp" ? -1 : 1);
  const way = key === "ArrowRight" ? 1 : -1;
  const middle = ({ left, top, width, height }: Placed) => ({ x: left + width / 2, y: top + height / 2 });
  const from = middle(chosen);
  const beside = scene().all
    .filter((placed) => placed !== chosen && placed.node.kind !== "frame" && (middle(placed).x - from.x) * way > 20)
    .map((placed) => ({ placed, far: Math.abs(middle(placed).x - from.x) + 3 * Math.abs(middle(placed).y - from.y) }))
    .sort((a, b) => a.far - b.far);
  goTo(beside[0]?.placed.node.path);
}

/** Select the wires of a node, one after another: Delete then takes one away. */
function nextWire(): boolean {
  const { wires, selection, selectedWires, select } = state();
  const [chosen] = selectedWires;
  const around = selection.size ? selection : new Set([wires.get(chosen ?? "")?.target.path ?? ""]);
  const near = [...wires.values()].filter((wire) => around.has(wire.target.path) || (selection.size > 0 && around.has(wire.source.path)));
  if (!near.length) return false;
  const at = near.findIndex((wire) => wire.id === chosen);
  select([], [near[(at + 1) % near.length]!.id]);
  return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Moving
// ---------------------------------------------------------------------------------------------------------------------

const STEPS: Record<string, [number, number]> = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
let settling: ReturnType<typeof setTimeout> | undefined;
const nudged = new Set<string>();

/** Move what is selected; the server hears of it when the keys rest. */
function nudge(key: string, far: boolean): boolean {
  const step = STEPS[key];
  const { selection } = state();
  if (!step || !selection.size) return false;
  const moves: [string, { x: number; y: number }][] = [];
  for (const path of selection) {
    const placed = scene().byPath.get(path);
    if (!placed || (placed.node.parent && selection.has(placed.node.parent))) continue; // it moves with its frame
    const reach = far ? 40 : 8;
    const [x, y] = [placed.x + step[0] * reach, placed.y + step[1] * reach];
    moves.push([path, placed.depth ? { x: Math.max(x, FRAME.side / 2), y: Math.max(y, FRAME.head + 8) } : { x, y }]);
    nudged.add(path);
  }
  draft(moves);
  clearTimeout(settling);
  settling = setTimeout(() => {
    void place(nudged);
    nudged.clear();
  }, 450);
  return true;
}
