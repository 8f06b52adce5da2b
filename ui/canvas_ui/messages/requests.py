"""What the browser asks for."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from canvas_ui.messages.common import Message, Path, Port, Position, SessionId, Short, Text


class Autosave(Message):
    """What the browser keeps, so that no work is lost when the server or the tab goes away."""

    document: Text
    """A document's JSON."""

    undo: list[Any] = Field(default=[], max_length=200)
    """`Restore` edits that lead from the document back, step by step."""

    revision: int = 0


Mode = Literal["train", "prefill", "decode", "chat"]
"""What a model is asked to do."""


class Scenario(Message):
    """How the model is run, and on what."""

    hardware: Short = "a100-80gb"
    mode: Mode = "train"
    batch: int = Field(default=1, ge=1, le=2**20)
    sequence: int = Field(default=4096, ge=1, le=2**24)
    dtype: Short = "bf16"
    attention: Short = "auto"
    weights: Short = "same"
    optimizer: Short = "adamw"
    implementation: Short = "auto"
    accumulation: int = Field(default=1, ge=1, le=2**20)
    recompute: Short = "none"
    loss: Short = "plain"
    lora: int = Field(default=0, ge=0, le=2**14)
    generate: int = Field(default=256, ge=1, le=2**20)
    cache: Short = "same"
    page: int = Field(default=0, ge=0, le=2**14)


class Hello(Message):
    """Begin, or go on after a reload or a restart of the server."""

    type: Literal["hello"]
    autosave: Autosave | None = None
    """Used, like `journal`, only where the server does not know the session."""

    journal: list[Any] = Field(default=[], max_length=5000)
    """Requests that were carried out since the autosave, to be carried out again: all with this one, or a page that is
    closed between them would leave the session without the rest."""

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
    instead: Port | None = None
    """The port that the wire fed before, where its end was moved from one port to another."""


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

    undo: list[Any] = Field(default=[], max_length=200)
    """With a document: its history, as in an autosave."""


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


ENVELOPE: TypeAdapter[Envelope] = TypeAdapter(Envelope)
REQUEST: TypeAdapter[Request] = TypeAdapter(Request)
