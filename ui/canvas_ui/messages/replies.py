"""What the server answers."""

from typing import Any, Literal

from pydantic import Field

from canvas_ui.messages.common import Message, Path, Port, Position, Severity
from canvas_ui.messages.requests import Autosave, Mode, Scenario


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
    options: list[str] = Field(default=[])
    summary: str = ""
    scopes: list[Literal["all", "layers", "node"]] = Field(default=[])
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
    fields: list[FieldView] = Field(default=[])
    """Those on its card."""

    repeat: int | None = None
    """A stack's layers."""

    variants: list[Variant] = Field(default=[])
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
    gone_nodes: list[Path] = Field(default=[])
    gone_wires: list[str] = Field(default=[])
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
    bound: Literal["compute", "memory", "launches", "communication"] | None
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


class Purpose(Message):
    """What can be asked of a model, by what it is for."""

    modes: list[Mode]
    tokens: bool
    """Whether it takes rows of tokens, as long as one likes; an image is as large as the model says."""


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
    purpose: Purpose | None = None


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
    choices: dict[str, list[str]]
    """What a scenario's fields may be, by their names."""


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
