// Generated from ui/canvas_ui/messages.py by `make types`. Do not edit.

export type AddBlock = {
  kind?: "add_block";
  /** Its name, free among blocks. */
  name: string;
  /** What it holds. */
  block: Block;
};

export type AddConfig = {
  kind?: "add_config";
  /** Its name, free among sizes and config values. */
  name: string;
  /** Any JSON value. */
  value: unknown;
};

export type AddInput = {
  kind?: "add_input";
  /** The block: empty for the root, or a path to a use or layers. */
  block_path: string;
  /** The input's name, free among the block's inputs and nodes. */
  input: string;
};

export type AddNode = {
  kind?: "add_node";
  /** The block that gets it: empty for the root, or a path to a use or layers. */
  block_path: string;
  /** What is added, with its wires. */
  node: Node | Use | Stack;
  /** The node that it stands before in reading order. */
  before?: string | null;
  /** The node that it stands after; without either it comes last. */
  after?: string | null;
};

export type AddSize = {
  kind?: "add_size";
  /** Its name, free among sizes and config values. */
  name: string;
  /** A positive integer, or an expression that gives one. */
  value: unknown;
};

export type Autosave = {
  /** A document's JSON. */
  document: string;
  /** `Restore` edits that lead from the document back, step by step. */
  undo?: unknown[];
  revision?: number;
};

export type Block = {
  /** Names of what flows in. */
  inputs: string[];
  /** In reading order, which is also an order of execution where no cycle forbids one. */
  nodes: (Node | Use | Stack)[];
  /** Names of what flows out, and the values that they are. */
  outputs: Record<string, string>;
  /** What the block was recognised as: `attention`, `gated_mlp`, `decoder_layer`, `backbone`, `causal_lm`, or nothing. */
  role?: string;
};

export type Bypass = {
  kind?: "bypass";
  /** The node. */
  path: string;
  /** The input that passes through; needed where a node has several inputs and none is the stream. */
  port?: string | null;
};

export type Card = {
  id: string;
  title: string;
  bytes: number;
};

export type Catalogue = {
  /** Groups of the palette, in order: id as `path`, title as `label`. */
  groups: Crumb[];
  zoo: ZooEntry[];
  cards: Card[];
  /** What a scenario's fields may be, by their names. */
  choices: Record<string, string[]>;
};

export type Connect = {
  kind?: "connect";
  /** The node that reads. */
  path: string;
  /** Its input port. */
  port: string;
  /** The value: a node of the same block, with its port where it has several, or one of the block's inputs. */
  source: string;
};

export type Copy = {
  type: "copy";
  paths: string[];
};

export type Crumb = {
  path: string;
  label: string;
};

export type Delete = {
  type: "delete";
  paths?: string[];
  /** Wires, by the ports that they feed. */
  wires?: Port[];
  /** Whether what fed a node then feeds those that read it, where that can be. */
  reconnect?: boolean;
};

export type DeleteLayers = {
  kind?: "delete_layers";
  /** The layers: `model.layers.8-15`. */
  path: string;
};

export type Details = {
  path: string;
  id: string;
  title: string;
  kind: "input" | "output" | "node" | "use" | "stack" | "frame";
  /** The block that it is, or else the one that holds it. */
  block: string;
  summary: string;
  paper: string;
  renamable: boolean;
  fields: FieldView[];
  inputs: Source[];
  outputs: Source[];
  parameters: ParameterView[];
  share: Share | null;
  formulas: Formula[];
  problems: Problem[];
  /** `layers 8-15 of 32`, or nothing. */
  layers: string;
};

export type Disconnect = {
  kind?: "disconnect";
  /** The node that reads. */
  path: string;
  /** Its input port. */
  port: string;
};

export type Document = {
  /** The version of this schema. */
  schema_version?: 1;
  /** What people call it. */
  name: string;
  /** The block that is the whole model. */
  root: string;
  /** What it is for: `causal_lm`, `masked_lm`, `image_classification` or `seq2seq_lm`. Left out, it is a causal language model. */
  task?: "causal_lm" | "masked_lm" | "image_classification" | "seq2seq_lm";
  /** Named integers of the model, called as configs call them. One may follow from others: `=hidden_size // num_attention_heads`. */
  sizes: Record<string, unknown>;
  /** All other values of the config: epsilons, activations, rotary parameters, token ids. */
  config: Record<string, unknown>;
  /** Every block, by name. */
  blocks: Record<string, Block>;
  /** Parameters that share another's storage while `tie_word_embeddings` is set: `lm_head.weight` → `model.embed_tokens.weight`. */
  ties?: Record<string, string>;
  /** Where it came from. */
  origin?: Origin;
  /** Where the canvas draws a node: `Block/node` → x, y. An input is drawn at `Block/input`, outputs at `Block/return`. */
  layout?: Record<string, [number, number]>;
  /** The tokenizer's settings, as far as they are known. */
  tokenizer?: Record<string, unknown>;
  /** The edits since the import, as data. */
  log?: unknown[];
};

export type DrawWire = {
  type: "connect";
  source: Port;
  target: Port;
  /** The port that the wire fed before, where its end was moved from one port to another. */
  instead?: Port | null;
};

export type DuplicateLayers = {
  kind?: "duplicate_layers";
  /** The layers: `model.layers.8-15`. */
  path: string;
  /** The index that the first copy will have; without it, right after the originals. */
  at?: number | null;
};

export type Edit = SetSize | SetConfig | SetAttr | AddSize | RemoveSize | AddConfig | SetName | SetTokenizer | AddBlock | RenameBlock | PlaceNodes | AddNode | RemoveNode | Connect | Disconnect | RenameNode | SetWeights | Bypass | InsertLayer | DeleteLayers | DuplicateLayers | MoveLayers | SwapLayers | ReplaceBlock | GroupNodes | Ungroup | MakeUnique | SetOutput | AddInput | RemoveInput | Restore;

export type EditDocument = {
  type: "edit";
  /** As `canvas-rt edit --apply` takes them. */
  edits: unknown[];
  /** Edits of one gesture, such as one drag of a slider, make one step of undo. */
  gesture?: string | null;
};

export type Envelope = {
  session: string;
  /** Counts the browser's requests: one that comes twice, because its answer was lost, is answered again, not done again. */
  serial: number;
  request: Hello | EditDocument | SetField | DrawWire | Insert | Delete | Place | Copy | Paste | Undo | Redo | Look | Inspect | SetScenario | Offers | Find | Open | Save | Figures | ReadCode;
};

export type Failure = {
  message: string;
  path?: string;
  hint?: string;
  /** Whether the server does not know the session: say hello again with the autosave. */
  lost?: boolean;
};

export type FieldView = {
  /** Unique in its node. */
  id: string;
  label: string;
  kind: "size" | "number" | "flag" | "choice" | "text" | "table";
  /** What it is now. */
  value: string | number | boolean | null;
  /** As the document says it: `4096`, or `hidden_size // num_attention_heads` where it follows from others. */
  written: string;
  /** Whether it follows from others; setting it makes it a number of its own. */
  derived?: boolean;
  /** The slider's range, where one makes sense. Typed values may lie outside. */
  minimum?: number | null;
  maximum?: number | null;
  step?: number | null;
  options?: string[];
  summary?: string;
  /** What a change may reach, the default first. */
  scopes?: ("all" | "layers" | "node")[];
  /** What the default reaches, in words: `all 32 layers`. */
  reach?: string;
  /** Whether it belongs on the node's card. */
  slider?: boolean;
};

export type Figures = {
  type: "figures";
  dark?: boolean;
};

export type File = {
  name: string;
  language: "python" | "json" | "markdown";
  text: string;
};

export type Find = {
  type: "find";
  text: string;
};

export type Formula = {
  name: string;
  /** In the model's own sizes. */
  text: string;
  value: number;
  unit: string;
};

export type GroupNodes = {
  kind?: "group_nodes";
  /** The block that holds them. */
  block_path: string;
  /** The nodes. */
  ids: string[];
  /** The new block's name. */
  block: string;
  /** The id of its use. */
  new_id: string;
};

export type Hello = {
  type: "hello";
  /** Used, like `journal`, only where the server does not know the session. */
  autosave?: Autosave | null;
  /** Requests that were carried out since the autosave, to be carried out again: all with this one, or a page that is closed between them would leave the session without the rest. */
  journal?: unknown[];
  scenario?: Scenario | null;
  /** A zoo model to begin with; without it, what the server was started with. */
  source?: string | null;
};

export type Hit = {
  path: string;
  title: string;
  detail: string;
  level: string;
  kind: string;
};

export type Insert = {
  type: "insert";
  /** An entry of the palette, by its `id`. */
  what: string;
  /** The level (or open frame) that gets it. */
  path: string;
  /** The wire that it is put on, by the port that the wire feeds. */
  wire?: Port | null;
  /** The output that it is to read. */
  source?: Port | null;
  /** The input that it is to feed. */
  target?: Port | null;
  position?: [number, number] | null;
};

export type InsertLayer = {
  kind?: "insert_layer";
  /** The stack. */
  path: string;
  /** The index that the new layer will have; without it, the end. */
  at?: number | null;
  /** The layer whose block and sizes it takes; without it, the layer before it. */
  like?: number | null;
  /** Its block, where it is not like another layer. */
  block?: string | null;
};

export type Inspect = {
  type: "inspect";
  path: string | null;
};

export type LayerKind = {
  /** The block that each such layer is. */
  block: string;
  /** Sizes that these layers have for themselves; all others are the model's. */
  sizes?: Record<string, unknown>;
};

export type LayerRange = {
  stack: string;
  first: number;
  last: number;
  /** Layers of the whole stack. */
  count: number;
  variants: Variant[];
};

export type Level = {
  path: string;
  crumbs: Crumb[];
  block: string;
  /** How many other uses of this block there are. */
  linked: number;
  layers: LayerRange | null;
  expanded: string[];
  /** Whether this is all of it; otherwise nodes and wires that did not change are left out. */
  whole: boolean;
  nodes: NodeView[];
  wires: WireView[];
  gone_nodes?: string[];
  gone_wires?: string[];
  /** All nodes in reading order, where that changed. */
  order?: string[] | null;
};

export type Look = {
  type: "look";
  path: string;
  /** Uses of blocks whose inside is shown in place; without it, the level's default. */
  expanded?: string[] | null;
};

export type MakeUnique = {
  kind?: "make_unique";
  /** The use, the stack or the layers. */
  path: string;
};

export type MoveLayers = {
  kind?: "move_layers";
  /** The layers: `model.layers.8-15`. */
  path: string;
  /** The index that the first of them will have afterwards. */
  to: number;
};

export type Node = {
  /** Unique in its block: the attribute's name in the emitted module, and a part of the checkpoint key, if it has no other. */
  id: string;
  /** A name from the catalogue of ops. */
  op: string;
  /** The op's settings. */
  attrs?: Record<string, unknown>;
  /** For each input port, the value that feeds it. */
  inputs?: Record<string, string>;
  /** What it is called in the checkpoint, where that is not its id: `ffn.0` is the first in the list `ffn` of its block. Nodes of one key are one module, used several times. */
  key?: string;
  /** Where its parameters come from, if not from the origin's of its key. */
  weights?: string;
};

export type NodeView = {
  path: string;
  /** Its id in its block. */
  id: string;
  /** `frame`: a use of a block whose inside is shown in place; its nodes have it as `parent`. */
  kind: "input" | "output" | "node" | "use" | "stack" | "frame";
  /** The frame that holds it, if any. */
  parent?: string | null;
  /** `RMSNorm`, or the block's name. */
  title: string;
  /** What matters of it, in the model's own sizes. */
  detail: string;
  /** Its colour: a group of the palette. */
  group: string;
  inputs: PortView[];
  outputs: PortView[];
  /** Those on its card. */
  fields?: FieldView[];
  /** A stack's layers. */
  repeat?: number | null;
  variants?: Variant[];
  /** How many other uses of its block there are: an edit inside reaches them too. */
  linked?: number;
  /** The level inside it. */
  enter?: string | null;
  /** The worst problem here or inside. */
  severity?: "error" | "warning" | "note" | null;
  problem?: string;
  /** Whether no output depends on it: it is neither run nor emitted. */
  dead?: boolean;
  share?: Share | null;
  parameters?: number;
  /** Where people put it; null: where the layout says. */
  position?: [number, number] | null;
};

export type Offer = {
  /** The palette entry. */
  what: string | null;
  existing: Port | null;
  title: string;
  group: string;
  summary: string;
};

export type Offers = {
  type: "offers";
  end: Port;
  /** Whether the port gives the value (`source`), or reads one. */
  side: "source" | "target";
};

export type Open = {
  type: "open";
  source: "zoo" | "text" | "blank" | "skeleton";
  /** The zoo model's name, or the uploaded file's. */
  name?: string;
  /** A config.json or a document. */
  text?: string;
  /** With a document: its history, as in an autosave. */
  undo?: unknown[];
};

export type Origin = {
  /** A zoo name, a file's name or a hub id; never a path of the importer's machine. */
  source?: string;
  /** The `model_type` of the imported config. */
  model_type?: string;
  /** The class it was imported from. */
  architecture?: string;
  /** The versions of torch and transformers that traced it. */
  versions?: Record<string, string>;
  /** The sizes as imported, so that an edited document knows what it left. */
  sizes?: Record<string, unknown>;
  /** The other config values as imported. */
  config?: Record<string, unknown>;
  /** What the config listed layer by layer where the graph says it itself: `layer_types`. */
  patterns?: Record<string, unknown>;
  /** Keys of its checkpoint that are others here, because it shares the tensor: `cls.predictions.bias` → `cls.predictions.decoder.bias`. */
  renamed?: Record<string, string>;
  /** Of the blocks as imported: equal to `structure(document)` while only sizes and config values were edited. */
  structure?: string;
  /** Of the architecture as imported: equal to `fingerprint(document)` while nothing was edited. */
  fingerprint?: string;
};

export type PaletteEntry = {
  id: string;
  title: string;
  group: string;
  summary: string;
  paper?: string;
};

export type ParameterView = {
  /** As in a checkpoint; layers as ranges. */
  key: string;
  shape: number[];
  /** In all layers. */
  count: number;
  /** The parameter whose storage it shares. */
  tied?: string;
};

export type Part = {
  name: string;
  bytes: number;
};

export type Paste = {
  type: "paste";
  clip: string;
  path: string;
  position?: [number, number] | null;
};

export type Place = {
  type: "place";
  positions: Record<string, [number, number] | null>;
};

export type PlaceNodes = {
  kind?: "place_nodes";
  /** The block. */
  block: string;
  /** For a node, an input or `return`: x and y, or null for where the canvas would put it by itself. */
  positions: Record<string, [number, number] | null>;
};

export type Port = {
  /** The node. */
  path: string;
  /** Its port. */
  port: string;
};

export type PortView = {
  name: string;
  /** Null where it is not known. */
  shape: Shape | null;
  dtype?: "float" | "int" | "";
  /** Whether something feeds it; for outputs, whether something reads it. */
  wired?: boolean;
};

export type Problem = {
  severity: "error" | "warning" | "note";
  path: string;
  message: string;
  hint: string;
  /** The level that shows it. */
  level: string;
  /** The node there. */
  node: string;
};

export type Purpose = {
  modes: ("train" | "prefill" | "decode" | "chat")[];
  /** Whether it takes rows of tokens, as long as one likes; an image is as large as the model says. */
  tokens: boolean;
};

export type ReadCode = {
  type: "code";
};

export type Redo = {
  type: "redo";
};

export type RemoveInput = {
  kind?: "remove_input";
  /** The block: empty for the root, or a path to a use or layers. */
  block_path: string;
  /** The input. */
  input: string;
};

export type RemoveNode = {
  kind?: "remove_node";
  /** The node, use or stack. */
  path: string;
};

export type RemoveSize = {
  kind?: "remove_size";
  /** The size. */
  name: string;
};

export type RenameBlock = {
  kind?: "rename_block";
  /** The block. */
  block: string;
  /** Its new name, free among blocks. */
  new_name: string;
};

export type RenameNode = {
  kind?: "rename_node";
  /** The node. */
  path: string;
  /** Its new id, free in its block. */
  new_id: string;
};

export type ReplaceBlock = {
  kind?: "replace_block";
  /** The use, the stack or the layers. */
  path: string;
  /** A block of the document. */
  block: string;
};

export type Reply = {
  ok: boolean;
  error?: Failure | null;
  update?: Update | null;
  catalogue?: Catalogue | null;
  autosave?: Autosave | null;
  clip?: string | null;
  hits?: Hit[] | null;
  offers?: Offer[] | null;
  /** Plotly figures by name: `memory`, `parameters`, `roofline`, `timeline`. */
  figures?: Record<string, unknown> | null;
  files?: File[] | null;
  /** Whether `hello` found the session as it was left. */
  resumed?: boolean;
};

export type Restore = {
  kind?: "restore";
  /** How many entries of the log are taken back. */
  entries?: number;
  /** The former name; null, here and below: it did not change. */
  name?: string | null;
  /** The former root. */
  root?: string | null;
  /** The former sizes, all of them. */
  sizes?: Record<string, unknown> | null;
  /** The former config, all of it. */
  config?: Record<string, unknown> | null;
  /** The former ties, all of them. */
  ties?: Record<string, string> | null;
  /** The former layout, all of it. */
  layout?: Record<string, [number, number]> | null;
  /** The former tokenizer's settings, all of them. */
  tokenizer?: Record<string, unknown> | null;
  /** Former blocks; null for those that did not exist. */
  blocks?: Record<string, Block | null>;
  /** The former order of the blocks. */
  order?: string[] | null;
};

export type Run = {
  /** The first layer. */
  start: number;
  /** One past the last layer. */
  stop: number;
  /** An index into the stack's kinds. */
  kind: number;
};

export type Save = {
  type: "save";
};

export type Scenario = {
  hardware?: string;
  mode?: "train" | "prefill" | "decode" | "chat";
  batch?: number;
  sequence?: number;
  dtype?: string;
  attention?: string;
  weights?: string;
  optimizer?: string;
  implementation?: string;
  accumulation?: number;
  recompute?: string;
  loss?: string;
  lora?: number;
  generate?: number;
  cache?: string;
  page?: number;
};

export type SetAttr = {
  kind?: "set_attr";
  /** The node. */
  path: string;
  /** One of its op's settings. */
  name: string;
  /** A constant, or an expression such as `=head_dim * 2`. */
  value: unknown;
};

export type SetConfig = {
  kind?: "set_config";
  /** The value's name in the config. */
  name: string;
  /** Any JSON value of the sort that stands there. */
  value: unknown;
};

export type SetField = {
  type: "set";
  /** The field's `id`. */
  field: string;
  /** The node whose field it is; empty for the document's. */
  path: string;
  /** A number, a flag, a choice, or text: a number as typed, or `=` and an expression. */
  value: string | number | boolean | null;
  /** Which of the linked uses: the whole model, the layers that the path names, or this node alone. Default: the field's. */
  scope?: "all" | "layers" | "node" | null;
  gesture?: string | null;
};

export type SetName = {
  kind?: "set_name";
  /** What people call it. */
  name: string;
};

export type SetOutput = {
  kind?: "set_output";
  /** The block: empty for the root, or a path to a use or layers. */
  block_path: string;
  /** The output's name. */
  output: string;
  /** A value of the block; null takes the output away. */
  source: string | null;
};

export type SetScenario = {
  type: "scenario";
  scenario: Scenario;
};

export type SetSize = {
  kind?: "set_size";
  /** Whose size: empty for the model's, or a path to layers, a stack or a block. */
  path: string;
  /** The size, called as the document calls it. */
  name: string;
  /** A positive integer, or an expression that gives one. */
  value: unknown;
};

export type SetTokenizer = {
  kind?: "set_tokenizer";
  /** Its settings, such as `name` and `vocab_size`; empty for one that is not known. */
  tokenizer: Record<string, unknown>;
};

export type SetWeights = {
  kind?: "set_weights";
  /** The node, or the use of a block. */
  path: string;
  /** Keys of the origin beside it, `=zeros`, `=ones`, `=identity` or `=initialise`; empty: those of its own key. */
  weights?: string;
};

export type Shape = {
  /** In the model's own sizes: `["batch", "seq", "hidden_size"]`. */
  symbolic: string[];
  actual: number[];
};

export type Share = {
  parameters: number;
  flops: number;
  /** Of bytes moved. */
  memory: number;
  time: number;
};

export type Source = {
  port: string;
  shape: Shape | null;
  ends: Port[];
};

export type Stack = {
  /** Unique in its block. */
  id: string;
  /** How many layers. */
  repeat: unknown;
  /** The kinds of layer; the first is the default. */
  kinds: LayerKind[];
  /** Layers that are not of the default kind: sorted, without overlap. */
  runs?: Run[];
  /** For each layer, the layer of the origin whose weights it takes (`null`: fresh). `null` as a whole: its own. */
  source?: (number | null)[] | null;
  /** What the origin calls it, if not by its id. */
  weights?: string;
  /** For each input of the layers' block, the value that feeds it. The block's first input is the carried one. */
  inputs?: Record<string, string>;
};

export type Step = {
  /** What undo would take back, in words; null: nothing. */
  undo: string | null;
  redo: string | null;
};

export type SwapLayers = {
  kind?: "swap_layers";
  /** The stack. */
  path: string;
  /** One layer. */
  a: number;
  /** The other. */
  b: number;
};

export type Totals = {
  parameters: number | null;
  active: number | null;
  /** Of one step or call, forward and backward. */
  flops: number | null;
  /** Adds up to `device_total`. */
  memory: Part[] | null;
  device_total: number | null;
  /** Bytes that the card lets a process have. */
  capacity: number;
  /** Bytes as the card is sold: 80 · 2³⁰. */
  nominal: number;
  fits: boolean | null;
  /** Its short name: `A100`. */
  card: string;
  card_title: string;
  time_s: number | null;
  tokens_per_s: number | null;
  bound: "compute" | "memory" | "launches" | "communication" | null;
  /** `Training VRAM 42.0 GB / 80 GB (A100)`. */
  headline: string;
};

export type Undo = {
  type: "undo";
};

export type Ungroup = {
  kind?: "ungroup";
  /** The use. */
  path: string;
};

export type Update = {
  /** Rises with each change of the document. */
  revision: number;
  name: string;
  /** What it was opened from. */
  origin: string;
  /** Edits since then. */
  edits: number;
  step: Step;
  level?: Level | null;
  problems?: Problem[] | null;
  totals?: Totals | null;
  details?: Details | null;
  /** The document's own sizes and config values. */
  sizes?: FieldView[] | null;
  palette?: PaletteEntry[] | null;
  /** What the change made: to be selected. */
  select?: string[] | null;
  scenario?: Scenario | null;
  purpose?: Purpose | null;
};

export type Use = {
  /** Unique in its block. */
  id: string;
  /** The block's name. */
  block: string;
  /** For each input of the block, the value that feeds it. */
  inputs?: Record<string, string>;
  /** What it is called in the checkpoint, where that is not its id, as of a node. */
  key?: string;
  /** Where the parameters inside it come from, as of a node. */
  weights?: string;
};

export type Variant = {
  /** As paths say it: `8-15`. */
  layers: string;
  path: string;
  count: number;
  block: string;
  /** What tells them from the others: `num_key_value_heads 4`; empty for the default. */
  label: string;
};

export type WireView = {
  id: string;
  source: Port;
  target: Port;
  shape?: Shape | null;
  /** Whether the shapes at its ends disagree. */
  bad?: boolean;
  problem?: string;
  hint?: string;
};

export type ZooEntry = {
  name: string;
  family: string;
  parameters: number;
};
