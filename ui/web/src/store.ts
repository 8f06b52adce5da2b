/** What the page knows: the server's view of the document, and what is only here (selection, places, open panels). */
import { create } from "zustand";

import { claim, forget, load, orphans, putAside, store as keepWork, type Kept } from "./autosave";
import type {
  Catalogue, Crumb, Details, Failure, FieldView, LayerRange, Level, NodeView, Offer, PaletteEntry, Port,
  Problem, Purpose, Reply, Scenario, Step, Totals, Update, WireView,
} from "./protocol";
import { Channel, type Exchange, type Request, type Status } from "./transport";

/** x, y in canvas units. */
export type Position = [number, number];

export interface Toast {
  kind: "error" | "done" | "note";
  message: string;
  hint: string;
  id: number;
}

/** Where the add-node menu is open, and what it is to connect. */
export interface AddMenu {
  screen: { x: number; y: number };
  /** Where the new node goes, in the coordinates of `frame`. */
  position: Position;
  /** The level or frame that gets it. */
  frame: string;
  /** The port that a wire was dragged from; the menu then offers what fits. */
  end: Port | null;
  side: "source" | "target" | null;
  /** The wire that was clicked. */
  wire: Port | null;
  offers: Offer[] | null;
}

export interface State {
  status: Status;
  ready: boolean;
  revision: number;
  name: string;
  origin: string;
  edits: number;
  step: Step;
  path: string;
  crumbs: Crumb[];
  block: string;
  linked: number;
  layers: LayerRange | null;
  expanded: string[];
  nodes: ReadonlyMap<string, NodeView>;
  order: string[];
  wires: ReadonlyMap<string, WireView>;
  problems: Problem[];
  totals: Totals | null;
  purpose: Purpose;
  details: Details | null;
  sizes: FieldView[];
  palette: PaletteEntry[];
  catalogue: Catalogue | null;
  scenario: Scenario;

  selection: ReadonlySet<string>;
  selectedWires: ReadonlySet<string>;
  /** A node that the view is to be moved to, e.g. from the list of problems. */
  goal: string | null;
  toast: Toast | null;
  menu: AddMenu | null;
  dialog: "open" | "find" | "keys" | null;
  /** Whether the browser has room for the work. */
  kept: boolean;
  showShapes: boolean;
  dark: boolean;
  orphans: Kept[];

  /** Send a request and take in its answer. */
  send(request: Request): Promise<Reply>;
  select(paths: Iterable<string>, wires?: Iterable<string>): void;
  look(path: string, expanded?: string[] | null): Promise<void>;
  /** Go to a level and select a node in it. */
  reveal(level: string, node: string): Promise<void>;
  set(part: Partial<State>): void;
  say(kind: Toast["kind"], message: string, hint?: string): void;
  /** Open work that another tab left behind. */
  recover(kept: Kept): Promise<void>;
  discard(kept: Kept): void;
}

const SCENARIO: Scenario = { hardware: "a100-80gb", mode: "train", batch: 1, sequence: 4096, dtype: "bf16", optimizer: "adamw" };
let channel: Channel | null = null;
let toasts = 0;

export const useCanvas = create<State>((set, get) => ({
  status: "working", ready: false, revision: -1, name: "", origin: "", edits: 0, step: { undo: null, redo: null },
  path: "", crumbs: [], block: "", linked: 0, layers: null, expanded: [], nodes: new Map(), order: [], wires: new Map(),
  problems: [], totals: null, details: null, sizes: [], palette: [], catalogue: null, scenario: SCENARIO, purpose: { modes: [], tokens: true },
  selection: new Set(), selectedWires: new Set(), goal: null, toast: null, menu: null, dialog: null, kept: true, showShapes: false,
  dark: false, orphans: [],

  async send(request) {
    if (!channel) throw new Error("the page has not begun");
    const reply = await channel.call(request);
    if (!reply.ok && reply.error) complain(reply.error);
    return reply;
  },

  select(paths, wires = []) {
    const selection = new Set(paths);
    const selectedWires = new Set(wires);
    const before = get();
    if (same(selection, before.selection) && same(selectedWires, before.selectedWires)) return;
    set({ selection, selectedWires });
    const only = selection.size === 1 ? [...selection][0]! : null;
    if ((before.details?.path ?? null) !== only) {
      if (only === null) set({ details: null });
      void get().send({ type: "inspect", path: only });
    }
  },

  async look(path, expanded = null) {
    get().select([]);
    await get().send({ type: "look", path, expanded });
  },

  async reveal(level, node) {
    if (get().path !== level || !get().nodes.has(node)) await get().look(level);
    get().select([node]);
    set({ goal: node });
  },

  set: (part) => set(part),
  say: (kind, message, hint = "") => set({ toast: { kind, message, hint, id: ++toasts } }),

  async recover(kept) {
    const { send } = get();
    const autosave = kept.keep.autosave!;
    const opened = await send({ type: "open", source: "text", name: kept.name, text: autosave.document, undo: autosave.undo ?? [] });
    if (!opened.ok) return; // it says why, and the work stays on offer
    for (const request of kept.keep.journal) await send(request);
    for (const { request } of kept.keep.pending ?? []) await send(request);
    get().discard(kept);
  },

  discard(kept) {
    forget(kept.session);
    set({ orphans: get().orphans.filter((other) => other.session !== kept.session) });
  },
}));

function same(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a.size === b.size && [...a].every((item) => b.has(item));
}

function complain(error: Failure): void {
  const text = error.path ? `${error.path}: ${error.message}` : error.message;
  useCanvas.getState().say("error", text, error.hint ?? "");
}

/** What an update says of a level: the whole of it, or what changed. Unchanged nodes keep their identity. */
function levelled(state: State, level: Level): Partial<State> {
  const fresh = level.whole || level.path !== state.path;
  const nodes = new Map(fresh ? [] : state.nodes);
  for (const path of level.gone_nodes ?? []) nodes.delete(path);
  for (const node of level.nodes) nodes.set(node.path, node);
  const wires = new Map(fresh ? [] : state.wires);
  for (const id of level.gone_wires ?? []) wires.delete(id);
  for (const wire of level.wires) wires.set(wire.id, wire);
  return {
    path: level.path, crumbs: level.crumbs, block: level.block, linked: level.linked, layers: level.layers,
    expanded: level.expanded, nodes, wires, order: level.order ?? (fresh ? level.nodes.map((node) => node.path) : state.order),
    selection: keepOnly(state.selection, nodes), selectedWires: keepOnly(state.selectedWires, wires),
  };
}

function keepOnly(chosen: ReadonlySet<string>, known: ReadonlyMap<string, unknown>): ReadonlySet<string> {
  return [...chosen].every((item) => known.has(item)) ? chosen : new Set([...chosen].filter((item) => known.has(item)));
}

export function merged(state: State, update: Update): Partial<State> {
  return {
    revision: update.revision, name: update.name, origin: update.origin, edits: update.edits, step: update.step,
    ...(update.level ? levelled(state, update.level) : {}),
    ...(update.problems ? { problems: update.problems } : {}),
    ...(update.totals ? { totals: update.totals } : {}),
    ...(update.details ? { details: update.details } : {}),
    ...(update.sizes ? { sizes: update.sizes } : {}),
    ...(update.purpose ? { purpose: update.purpose } : {}),
    ...(update.palette ? { palette: update.palette } : {}),
    // A reply leaves out what is the default.
    ...(update.scenario ? { scenario: { ...SCENARIO, ...update.scenario } } : {}),
  };
}

export interface Hooks {
  exchange: Exchange;
  /** A zoo model to begin with, in place of what the server was started with. */
  source?: string;
  /** Told of each revision, so that the page's other parts can follow. */
  onRevision?(session: string, revision: number): void;
}

/** Begin: claim this tab's session, say hello, and keep the work safe from then on. */
export async function begin(hooks: Hooks): Promise<void> {
  const { session, kept, reloaded } = await claim();
  let saving: ReturnType<typeof setTimeout> | undefined;
  const state = useCanvas.getState;
  channel = new Channel(session, hooks.exchange, kept?.keep ?? { autosave: null, journal: [], pending: [] }, {
    status: (status) => useCanvas.setState({ status }),
    kept: (keep) => useCanvas.setState({ kept: keepWork(session, state().name, keep) }),
    hello: () => ({ scenario: state().scenario, source: hooks.source }),
    reply(reply) {
      const before = state().revision;
      if (reply.catalogue) useCanvas.setState({ catalogue: reply.catalogue });
      if (!reply.update) return;
      useCanvas.setState((current) => merged(current, reply.update!));
      if (reply.update.select?.length) state().select(reply.update.select);
      if (reply.update.revision === before) return;
      hooks.onRevision?.(session, reply.update.revision);
      clearTimeout(saving);
      saving = setTimeout(() => void state().send({ type: "save" }), 600);
    },
  });
  const hello = { type: "hello", scenario: null } as const;
  const first = await channel.call({ ...hello, source: hooks.source, autosave: kept?.keep.autosave ?? null, journal: kept?.keep.journal ?? [] });
  if (!first.ok && first.error) {
    // Kept work, or a link, that this server cannot read: say so, put it aside, and begin.
    complain(first.error);
    putAside(session);
    channel.startAfresh();
    await channel.call({ ...hello, autosave: null });
  }
  if (first.ok && kept) {
    // What the page that was here before had asked for without being answered. The server knows what it has done already.
    for (const { serial, request } of kept.keep.pending ?? []) await channel.call(request, serial);
  }
  useCanvas.setState({ ready: true, orphans: reloaded ? [] : await orphans(session) });
}

export const currentWork = () => channel && load(channel.session);
export const session = () => channel?.session ?? "";
