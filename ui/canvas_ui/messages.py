"""What the browser and the server say to one another. `ui/web/src/protocol.ts` is generated from these types."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MOST_TEXT = 4 * 2**20
"""Characters of the largest document, clip or config that is taken from a browser."""

SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
"""Made by the browser, one for each tab: who knows it holds the session."""

Path = Annotated[str, Field(max_length=1000)]
"""Ids joined by dots, as in `model.layers.8-15.self_attn.q_proj`; the empty path is the whole model.

A block's input stands at `<block's path>.<input>`, its outputs at `<block's path>.return`.
"""

Short = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Position = tuple[float, float]
"""x, y in canvas units, of a node's top left corner within the frame that holds it."""

Severity = Literal["error", "warning", "note"]


class Message(BaseModel):
    """Base of all messages: frozen, strict, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=True)


class Port(Message):
    """One end of a wire."""

    path: Path
    """The node."""

    port: Short
    """Its port."""


# ---------------------------------------------------------------------------------------------------------------------
# What the browser asks for
# ---------------------------------------------------------------------------------------------------------------------


class Autosave(Message):
    """What the browser keeps, so that no work is lost when the server or the tab goes away."""

    document: Text
    """A document's JSON."""

    undo: list[Any] = Field(default=[], max_length=200)
    """`Restore` edits that lead from the document back, step by step."""

    revision: int = 0


class Scenario(Message):
    """How the model is run, and on what."""

    hardware: Short = "a100-80gb"
    mode: Literal["train", "prefill", "decode"] = "train"
    batch: int = Field(default=1, ge=1, le=2**20)
    sequence: int = Field(default=4096, ge=1, le=2**24)
    dtype: Short = "bf16"
    optimizer: Short = "adamw"


class Hello(Message):
    """Begin, or go on after a reload or a restart of the server."""

    type: Literal["hello"]
    autosave: Autosave | None = None
    """Used only where the server does not know the session."""

    scenario: Scenario | None = None
    source: Short | None = None
    """A zoo model to begin with; without it, what the server was started with."""


class EditDocument(Message):
    """Make edits, all or none."""

    type: Literal["edit"]
    edits: list[Any] = Field(max_length=1000)
    """As `canvas-rt edit --apply` takes them."""

    gesture: Short | None = None
    """Edits of one gesture, such as one drag of a slider, make one step of undo."""


class SetField(Message):
    """Give a field that a node or the document shows another value."""

    type: Literal["set"]
    field: Short
    """The field's `id`."""

    path: Path
    """The node whose field it is; empty for the document's."""

    value: str | float | int | bool | None
    """A number, a flag, a choice, or text: a number as typed, or `=` and an expression."""

    scope: Literal["all", "layers", "node"] | None = None
    """Which of the linked uses: the whole model, the layers that the path names, or this node alone. Default: the field's."""

    gesture: Short | None = None


class DrawWire(Message):
    """Draw a wire, in place of what fed the port before."""

    type: Literal["connect"]
    source: Port
    target: Port


class Insert(Message):
    """Add a node from the palette: free, on a wire, or at a port."""

    type: Literal["insert"]
    what: Short
    """An entry of the palette, by its `id`."""

    path: Path
    """The level (or open frame) that gets it."""

    wire: Port | None = None
    """The wire that it is put on, by the port that the wire feeds."""

    source: Port | None = None
    """The output that it is to read."""

    target: Port | None = None
    """The input that it is to feed."""

    position: Position | None = None


class Delete(Message):
    """Take away nodes and wires."""

    type: Literal["delete"]
    paths: list[Path] = Field(default=[], max_length=2000)
    wires: list[Port] = Field(default=[], max_length=2000)
    """Wires, by the ports that they feed."""

    reconnect: bool = True
    """Whether what fed a node then feeds those that read it, where that can be."""


class Place(Message):
    """Say where nodes stand; null lets the layout place them again."""

    type: Literal["place"]
    positions: dict[Path, Position | None] = Field(max_length=5000)


class Copy(Message):
    """Ask for nodes as a clip that `paste` takes, in this document or another."""

    type: Literal["copy"]
    paths: list[Path] = Field(max_length=2000)


class Paste(Message):
    """Put a clip's nodes into a level."""

    type: Literal["paste"]
    clip: Text
    path: Path
    position: Position | None = None


class Undo(Message):
    type: Literal["undo"]


class Redo(Message):
    type: Literal["redo"]


class Look(Message):
    """Show another level, or open and close frames in it."""

    type: Literal["look"]
    path: Path
    expanded: list[Path] | None = Field(default=None, max_length=500)
    """Uses of blocks whose inside is shown in place; without it, the level's default."""


class Inspect(Message):
    """Ask for all about one node; updates then carry it until another is asked for."""

    type: Literal["inspect"]
    path: Path | None


class SetScenario(Message):
    type: Literal["scenario"]
    scenario: Scenario


class Offers(Message):
    """Ask which entries of the palette, and which nodes, fit a port."""

    type: Literal["offers"]
    end: Port
    side: Literal["source", "target"]
    """Whether the port gives the value (`source`), or reads one."""


class Find(Message):
    """Search nodes in the whole model, inside blocks too."""

    type: Literal["find"]
    text: Short


class Open(Message):
    """Leave this document for another. Undo leads back."""

    type: Literal["open"]
    source: Literal["zoo", "text", "blank", "skeleton"]
    name: Short = ""
    """The zoo model's name, or the uploaded file's."""

    text: Text = ""
    """A config.json or a document."""


class Save(Message):
    """Ask for the autosave."""

    type: Literal["save"]


class Figures(Message):
    """Ask for the plotly figures."""

    type: Literal["figures"]
    dark: bool = False


class ReadCode(Message):
    """Ask for the emitted files."""

    type: Literal["code"]


Request = Annotated[
    Hello
    | EditDocument
    | SetField
    | DrawWire
    | Insert
    | Delete
    | Place
    | Copy
    | Paste
    | Undo
    | Redo
    | Look
    | Inspect
    | SetScenario
    | Offers
    | Find
    | Open
    | Save
    | Figures
    | ReadCode,
    Field(discriminator="type"),
]


class Envelope(Message):
    """What every call carries."""

    session: SessionId
    serial: int = Field(ge=0)
    """Counts the browser's requests: one that comes twice, because its answer was lost, is answered again, not done again."""

    request: Request


# ---------------------------------------------------------------------------------------------------------------------
# What the server answers
# ---------------------------------------------------------------------------------------------------------------------


class Shape(Message):
    """The shape of a value."""

    symbolic: list[str]
    """In the model's own sizes: `["batch", "seq", "hidden_size"]`."""

    actual: list[int]


class PortView(Message):
    """A port as drawn."""

    name: str
    shape: Shape | None
    """Null where it is not known."""

    dtype: Literal["float", "int", ""] = ""
    wired: bool = True
    """Whether something feeds it; for outputs, whether something reads it."""


class FieldView(Message):
    """A setting that people change."""

    id: str
    """Unique in its node."""

    label: str
    kind: Literal["size", "number", "flag", "choice", "text", "table"]
    value: str | float | int | bool | None
    """What it is now."""

    written: str
    """As the document says it: `4096`, or `hidden_size // num_attention_heads` where it follows from others."""

    derived: bool = False
    """Whether it follows from others; setting it makes it a number of its own."""

    minimum: float | None = None
    """The slider's range, where one makes sense. Typed values may lie outside."""

    maximum: float | None = None
    step: float | None = None
    options: list[str] = []
    summary: str = ""
    scopes: list[Literal["all", "layers", "node"]] = []
    """What a change may reach, the default first."""

    reach: str = ""
    """What the default reaches, in words: `all 32 layers`."""

    slider: bool = False
    """Whether it belongs on the node's card."""


class Variant(Message):
    """Layers of a stack that are alike and stand together."""

    layers: str
    """As paths say it: `8-15`."""

    path: Path
    count: int
    block: str
    label: str
    """What tells them from the others: `num_key_value_heads 4`; empty for the default."""


class Share(Message):
    """A node's part of the whole, each from 0 to 1."""

    parameters: float
    flops: float
    memory: float
    """Of bytes moved."""

    time: float


class NodeView(Message):
    """A node as drawn."""

    path: Path
    id: str
    """Its id in its block."""

    kind: Literal["input", "output", "node", "use", "stack", "frame"]
    """`frame`: a use of a block whose inside is shown in place; its nodes have it as `parent`."""

    parent: Path | None = None
    """The frame that holds it, if any."""

    title: str
    """`RMSNorm`, or the block's name."""

    detail: str
    """What matters of it, in the model's own sizes."""

    group: str
    """Its colour: a group of the palette."""

    inputs: list[PortView]
    outputs: list[PortView]
    fields: list[FieldView] = []
    """Those on its card."""

    repeat: int | None = None
    """A stack's layers."""

    variants: list[Variant] = []
    linked: int = 0
    """How many other uses of its block there are: an edit inside reaches them too."""

    enter: Path | None = None
    """The level inside it."""

    severity: Severity | None = None
    """The worst problem here or inside."""

    problem: str = ""
    dead: bool = False
    """Whether no output depends on it: it is neither run nor emitted."""

    share: Share | None = None
    parameters: int = 0
    position: Position | None = None
    """Where people put it; null: where the layout says."""


class WireView(Message):
    """A wire as drawn, from output to input."""

    id: str
    source: Port
    target: Port
    shape: Shape | None = None
    bad: bool = False
    """Whether the shapes at its ends disagree."""

    problem: str = ""
    hint: str = ""


class Crumb(Message):
    path: Path
    label: str


class LayerRange(Message):
    """The layers that a level shows, where it is inside a stack."""

    stack: Path
    first: int
    last: int
    count: int
    """Layers of the whole stack."""

    variants: list[Variant]


class Level(Message):
    """One level of the graph, or what changed in it."""

    path: Path
    crumbs: list[Crumb]
    block: str
    linked: int
    """How many other uses of this block there are."""

    layers: LayerRange | None
    expanded: list[Path]
    whole: bool
    """Whether this is all of it; otherwise nodes and wires that did not change are left out."""

    nodes: list[NodeView]
    wires: list[WireView]
    gone_nodes: list[Path] = []
    gone_wires: list[str] = []
    order: list[Path] | None = None
    """All nodes in reading order, where that changed."""


class Problem(Message):
    """One flaw, with its place and a way out."""

    severity: Severity
    path: str
    message: str
    hint: str
    level: Path
    """The level that shows it."""

    node: Path
    """The node there."""


class Part(Message):
    """One part of the memory."""

    name: str
    bytes: int


class Totals(Message):
    """What the model costs. Costs are null while shapes disagree."""

    parameters: int | None
    active: int | None
    flops: int | None
    """Of one step or call, forward and backward."""

    memory: list[Part] | None
    """Adds up to `device_total`."""

    device_total: int | None
    capacity: int
    """Bytes that the card lets a process have."""

    nominal: int
    """Bytes as the card is sold: 80 · 2³⁰."""

    fits: bool | None
    card: str
    """Its short name: `A100`."""

    card_title: str
    time_s: float | None
    tokens_per_s: float | None
    bound: Literal["compute", "memory"] | None
    headline: str
    """`Training VRAM 42.0 GB / 80 GB (A100)`."""


class Step(Message):
    """The ends of the history."""

    undo: str | None
    """What undo would take back, in words; null: nothing."""

    redo: str | None


class Source(Message):
    """Where a wire comes from, or goes, as the inspector lists it."""

    port: str
    shape: Shape | None
    ends: list[Port]


class ParameterView(Message):
    key: str
    """As in a checkpoint; layers as ranges."""

    shape: list[int]
    count: int
    """In all layers."""

    tied: str = ""
    """The parameter whose storage it shares."""


class Formula(Message):
    """One number, explained."""

    name: str
    text: str
    """In the model's own sizes."""

    value: float
    unit: str


class Details(Message):
    """All about one node."""

    path: Path
    id: str
    title: str
    kind: Literal["input", "output", "node", "use", "stack", "frame"]
    block: str
    """The block that it is, or else the one that holds it."""

    summary: str
    paper: str
    renamable: bool
    fields: list[FieldView]
    inputs: list[Source]
    outputs: list[Source]
    parameters: list[ParameterView]
    share: Share | None
    formulas: list[Formula]
    problems: list[Problem]
    layers: str
    """`layers 8-15 of 32`, or nothing."""


class Update(Message):
    """What changed. Parts that are null did not."""

    revision: int
    """Rises with each change of the document."""

    name: str
    origin: str
    """What it was opened from."""

    edits: int
    """Edits since then."""

    step: Step
    level: Level | None = None
    problems: list[Problem] | None = None
    totals: Totals | None = None
    details: Details | None = None
    sizes: list[FieldView] | None = None
    """The document's own sizes and config values."""

    palette: list["PaletteEntry"] | None = None
    select: list[Path] | None = None
    """What the change made: to be selected."""

    scenario: Scenario | None = None


class PaletteEntry(Message):
    id: str
    title: str
    group: str
    summary: str
    paper: str = ""


class ZooEntry(Message):
    name: str
    family: str
    parameters: int


class Card(Message):
    id: str
    title: str
    bytes: int


class Catalogue(Message):
    """What there is to choose from. Does not change."""

    groups: list[Crumb]
    """Groups of the palette, in order: id as `path`, title as `label`."""

    zoo: list[ZooEntry]
    cards: list[Card]
    dtypes: list[str]
    optimizers: list[str]


class Hit(Message):
    path: Path
    title: str
    detail: str
    level: Path
    kind: str


class Offer(Message):
    """Something that fits a port: a palette entry to insert, or a node that is there already."""

    what: str | None
    """The palette entry."""

    existing: Port | None
    title: str
    group: str
    summary: str


class File(Message):
    name: str
    language: Literal["python", "json", "markdown"]
    text: str


class Failure(Message):
    """Why a request was not carried out, told so that a person can mend it."""

    message: str
    path: str = ""
    hint: str = ""
    lost: bool = False
    """Whether the server does not know the session: say hello again with the autosave."""


class Reply(Message):
    """The answer to one request. `ok` without `update` means that nothing changed."""

    ok: bool
    error: Failure | None = None
    update: Update | None = None
    catalogue: Catalogue | None = None
    autosave: Autosave | None = None
    clip: str | None = None
    hits: list[Hit] | None = None
    offers: list[Offer] | None = None
    figures: dict[str, Any] | None = None
    """Plotly figures by name: `memory`, `parameters`, `roofline`, `timeline`."""

    files: list[File] | None = None
    resumed: bool = False
    """Whether `hello` found the session as it was left."""


ENVELOPE: TypeAdapter[Envelope] = TypeAdapter(Envelope)
