"""Answer the browser's requests: many sessions, each with a document of its own, none of which sees another."""

import gc
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from canvas_rt.codegen import emit
from canvas_rt.edits import Edit, PlaceNodes, apply, parse_edits
from canvas_rt.errors import CanvasError
from canvas_rt.gestures import clips, insert, remove, starts, wires
from canvas_rt.gestures.scope import nearest_scope, scope_at, split
from canvas_rt.importer.config import check_config
from canvas_rt.importer.zoo import open_zoo, zoo_models
from canvas_rt.ir.document import Document
from canvas_rt.ir.files import dumps, parse_document, parse_json
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.parameters import count_parameters
from canvas_rt.physics import scenario as scenarios
from canvas_rt.physics.hardware import hardware_names, load_hardware
from canvas_rt.session import Session, Setting
from canvas_rt.sources import import_apart
from canvas_ui import messages as m
from canvas_ui.limits import ELSEWHERE, Limits, Line, TooLarge
from canvas_ui.views import figures as drawn
from canvas_ui.views.costs import Costs, modes_of, totals
from canvas_ui.views.deltas import Shown, delta
from canvas_ui.views.details import details
from canvas_ui.views.fields import document_fields, field_edits
from canvas_ui.views.find import find
from canvas_ui.views.levels import draw
from canvas_ui.views.offers import offers
from canvas_ui.views.problems import problems

T = TypeVar("T")

IDLE_SECONDS = 6 * 3600
"""A session that nobody asked for so long is forgotten; its browser hands it back when it is wanted again."""

UNDO_KEPT = 20
"""Steps of undo that the browser keeps with its autosave."""


MOST_ANSWERS = 8
LARGEST_WHOLE = 2**53

log = logging.getLogger(__name__)


@dataclass
class Made:
    """Something that was made of a document."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    document: Document | None = None
    value: Any = None


@dataclass
class Tab:
    """One browser tab: its session, and what it was last shown."""

    session: Session
    name: str = ""
    limits: Limits = field(default_factory=Limits)
    lock: threading.Lock = field(default_factory=threading.Lock)
    pending: int = 0
    """Requests that have the lock or wait for it."""

    used: float = 0.0
    path: str = ""
    expanded: tuple[str, ...] | None = None
    inspected: str | None = None
    proven: Document | None = None
    """What the certificate on the page is of."""
    certificate: str = ""
    """That certificate, if it holds."""
    made: dict[str, Made] = field(default_factory=dict)
    """What the other parts of the page show of the document, by what it is."""
    looked: threading.Event = field(default_factory=threading.Event)
    """Set when somebody looks anew at what is taken home."""

    shown: Shown = field(default_factory=Shown)
    answered: OrderedDict[int, m.Reply] = field(default_factory=OrderedDict)
    """The latest answers by the number of their request, for the case that one did not arrive."""


class Service:
    """All open sessions, bounded in number and age."""

    def __init__(self, first: Document | None = None, limits: Limits | None = None) -> None:
        self.first = first or open_zoo("llama-3.2-1b")
        self.limits = limits or Limits()
        self.line = Line(self.limits)
        self.tabs: OrderedDict[str, Tab] = OrderedDict()
        self.lock = threading.Lock()

    def warm_up(self) -> None:
        """Load what the first visitor would wait for: PyTorch's meta kernels, cards, the zoo's sizes."""
        catalogue()
        totals(Session.begin(self.first).state)
        gc.collect()
        gc.freeze()  # what is loaded now stays: later collections need not look at it

    def exchange(self, envelope: Any) -> dict[str, Any]:
        """Answer one request, given and returned as plain JSON values. Never raises."""
        try:
            parsed = m.ENVELOPE.validate_python(envelope, strict=False)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return _failed(CanvasError(f"this request is malformed: {first['msg']}", path=where[:200]))
        except RecursionError:
            return _failed(CanvasError("this request is nested too deeply"))
        try:
            _refuse_long(parsed.request, self.limits.text)
            return _dumped(self._answer(parsed))
        except CanvasError as error:
            return _failed(error)
        except Exception as error:
            return _failed(_flaw(error))

    def _answer(self, envelope: m.Envelope) -> m.Reply:
        tab = self._tab(envelope.session)
        request = envelope.request
        if tab is None:
            if not isinstance(request, m.Hello):
                return m.Reply(ok=False, error=m.Failure(message="the server has started anew", lost=True))
            tab = self._begin(envelope.session, request)
        with self._alone(tab):
            if envelope.serial in tab.answered:
                return tab.answered[envelope.serial]
            kept = tab.session.snapshot()
            try:
                reply = ANSWERS[type(request)](self, tab, request)
            except TooLarge as error:  # told when the change was made
                tab.session.restore(kept)
                reply = m.Reply(ok=False, error=_failure(error))
            except CanvasError as error:
                reply = m.Reply(ok=False, error=_failure(error))
            except Exception as error:  # a flaw of ours must not look like a lost connection, nor change anything
                tab.session.restore(kept)
                tab.shown = Shown()
                reply = m.Reply(ok=False, error=_failure(_flaw(error)))
            tab.answered[envelope.serial] = reply
            while len(tab.answered) > MOST_ANSWERS:
                tab.answered.popitem(last=False)
            return reply

    @contextmanager
    def _alone(self, tab: Tab) -> Iterator[None]:
        """One request of a session at a time; of those that wait, a bounded number."""
        with self.lock:
            if tab.pending > self.limits.pending:
                raise CanvasError("too many requests at once", hint="Wait until the page has answered.")
            tab.pending += 1
        try:
            with tab.lock:
                yield
        finally:
            with self.lock:
                tab.pending -= 1

    def _tab(self, name: str) -> Tab | None:
        now = time.monotonic()
        with self.lock:
            for old in [key for key, tab in self.tabs.items() if now - tab.used > IDLE_SECONDS]:
                del self.tabs[old]
            tab = self.tabs.get(name)
            if tab is not None:
                tab.used = now
                self.tabs.move_to_end(name)
            return tab

    def _begin(self, name: str, hello: m.Hello) -> Tab:
        if len(hello.journal) > self.limits.journal:
            raise CanvasError(f"a journal of more than {self.limits.journal} requests is not taken up", hint=ELSEWHERE)
        session = Session.begin(self.first, most=self.limits.steps)
        if hello.autosave is not None:
            document = parse_document(parse_json(hello.autosave.document, "autosave"), "autosave")
            self.limits.admit(document)
            session = Session.begin(document, most=self.limits.steps)
            session.retrace(hello.autosave.undo)
            session.revision = max(0, hello.autosave.revision)
        elif hello.source:
            session = Session.begin(open_zoo(hello.source), most=self.limits.steps)
        tab = Tab(session, name, self.limits, used=time.monotonic())
        for request in hello.journal:
            self._repeat(tab, request)
        with self.lock:
            self.tabs[name] = tab
            while len(self.tabs) > self.limits.sessions:
                self.tabs.popitem(last=False)
        return tab

    def _repeat(self, tab: Tab, request: Any) -> None:
        """Carry out again what a session that is lost had carried out; what it had refused is refused again."""
        kept = tab.session.snapshot()
        try:
            known = m.REQUEST.validate_python(request, strict=False)
            _refuse_long(known, self.limits.text)
            ANSWERS[type(known)](self, tab, known)
        except (CanvasError, ValidationError) as error:
            if isinstance(error, TooLarge):
                tab.session.restore(kept)
            log.info("a request of a journal was refused")

    def document(self, session: str) -> Document | None:
        """The document that a session has open, for the other parts of the page."""
        tab = self._tab(session)
        return None if tab is None else tab.session.document

    def written(self, session: str, what: str, write: Callable[[Document | None], T]) -> T:
        """What `write` makes of the document that a session has open: one at a time, so that the last has the latest.

        Requests overtake one another. What was made of the document already, as `what`, is not made again.
        """
        tab = self._tab(session)
        if tab is None:
            return write(None)
        with self.lock:
            made = tab.made.setdefault(what, Made())
        with made.lock:
            document = tab.session.document
            if made.document is not document:
                made.value, made.document = write(document), document
            return cast(T, made.value)

    def look(self, session: str) -> threading.Event:
        """What is set once somebody looks anew at what a session takes home; it is for whoever looked before."""
        tab, mine = self._tab(session), threading.Event()
        if tab is not None:
            with self.lock:
                before, tab.looked = tab.looked, mine
            before.set()
        return mine

    def prove(self, session: str, document: Document, certificate: str = "") -> bool:
        """Note of what the page's certificate is, and itself if it holds.

        False where the session has gone on to another document meanwhile.
        """
        tab = self._tab(session)
        if tab is not None:
            tab.proven, tab.certificate = document, certificate
        return tab is not None and tab.session.document == document

    def certificate(self, session: str, document: Document) -> str:
        """What a session has proven of a document; nothing where it has not."""
        tab = self._tab(session)
        return tab.certificate if tab is not None and tab.proven == document else ""

    def stale_proof(self, session: str) -> bool:
        """Whether the page's certificate is of another document than the one that is open; told once."""
        tab = self._tab(session)
        if tab is None or tab.proven is None or tab.proven == tab.session.document:
            return False
        tab.proven = None
        return True

    def setting(self, session: str) -> Setting:
        tab = self._tab(session)
        return Setting() if tab is None else tab.session.state.setting


def _refuse_long(request: m.Request, most: int) -> None:
    """Raise `CanvasError` for a text that is longer than this server takes."""
    match request:
        case m.Hello(autosave=m.Autosave(document=text)) | m.Open(text=text) | m.Paste(clip=text) if len(text) > most:
            raise CanvasError(f"is longer than {most // 1024:,} KiB, and this server takes no more", hint=ELSEWHERE)


def _failure(error: CanvasError) -> m.Failure:
    return m.Failure(message=error.message, path=error.path, hint=error.hint)


def _flaw(error: Exception) -> CanvasError:
    log.error("a flaw of Canvas itself", exc_info=error)
    text = f"a flaw of Canvas itself: {type(error).__name__}: {str(error)[:200]}"
    return CanvasError(text, hint="Nothing was changed: go on, and please report it.")


def _failed(error: CanvasError) -> dict[str, Any]:
    return _dumped(m.Reply(ok=False, error=_failure(error)))


def _dumped(reply: m.Reply) -> dict[str, Any]:
    dumped: dict[str, Any] = _readable({"ok": reply.ok, **reply.model_dump(mode="json", exclude_defaults=True)})
    return dumped


def _readable(value: Any) -> Any:
    """JSON that a browser reads as it is meant: its numbers hold 53 bits, and Gradio sends no more than 64."""
    if isinstance(value, dict):
        return {name: _readable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return float(value) if type(value) is int and abs(value) > LARGEST_WHOLE else value


# ---------------------------------------------------------------------------------------------------------------------
# What has changed since the tab was last told
# ---------------------------------------------------------------------------------------------------------------------


def update(tab: Tab, *, fresh: bool = False, select: Sequence[str] | None = None) -> m.Update:
    """All that the tab does not know yet; everything, if `fresh`."""
    session = tab.session
    tab.limits.admit(session.document)
    offered = modes_of(session.document)
    if session.state.setting.mode not in offered:  # another sort of model was shown before
        session.run_as(replace(session.state.setting, mode="prefill"))
    state, document = session.state, session.document
    found = problems(document, state.diagnostics)
    level = draw(state, tab.path, tab.expanded, found)
    tab.path, tab.expanded = level.path, tuple(level.expanded)
    if fresh:
        tab.shown = Shown()
    shown = tab.shown
    return m.Update(
        revision=session.revision,
        name=document.name,
        origin=document.origin.source,
        edits=len(document.log),
        step=m.Step(
            undo=session.past[-1].words if session.past else None,
            redo=session.future[-1].words if session.future else None,
        ),
        level=delta(shown, level),
        problems=shown.news("problems", found),
        totals=shown.news("totals", totals(state)),
        details=shown.news("details", _details(tab, found)),
        sizes=shown.news("sizes", document_fields(document)),
        palette=shown.news("palette", _palette(document)),
        scenario=shown.news("scenario", _scenario(state.setting)),
        purpose=shown.news("purpose", m.Purpose(modes=offered, tokens=document.purpose.of_tokens)),
        select=list(select) if select is not None else None,
    )


def _details(tab: Tab, found: Sequence[m.Problem]) -> m.Details | None:
    if tab.inspected is None:
        return None
    state = tab.session.state
    try:
        return details(state, tab.inspected, Costs(state.report), found)
    except CanvasError:
        tab.inspected = None  # it is gone
        return None


def _scenario(setting: Setting) -> m.Scenario:
    return m.Scenario(**{name: getattr(setting, name) for name in m.Scenario.model_fields})


@lru_cache(maxsize=64)
def _palette_of(roles: tuple[tuple[str, str, int], ...], holder: Any) -> list[m.PaletteEntry]:
    return [
        m.PaletteEntry(id=entry.id, title=entry.title, group=entry.group, summary=entry.summary, paper=entry.source)
        for entry in insert.palette(holder.document)
    ]


@dataclass(frozen=True)
class _Holder:
    """A document that two equal lists of blocks may stand for alike."""

    document: Document = field(compare=False, hash=False)


def _palette(document: Document) -> list[m.PaletteEntry]:
    return _palette_of(
        tuple((name, block.role, len(block.nodes)) for name, block in document.blocks.items()), _Holder(document)
    )


def choices() -> dict[str, list[str]]:
    """What a scenario's fields may be, by their names."""
    found = {
        field.name: list(field.metadata["choices"])
        for field in fields(scenarios.Scenario)
        if "choices" in field.metadata and field.name in m.Scenario.model_fields
    }
    return {**found, "recompute": ["none", "selective", "full"]}


@lru_cache(maxsize=1)
def catalogue() -> m.Catalogue:
    """What there is to choose from."""
    zoo = [
        m.ZooEntry(name=name, family=model.family, parameters=count_parameters(open_zoo(name)).total)
        for name, model in zoo_models().items()
    ]
    cards = [load_hardware(name) for name in hardware_names()]
    return m.Catalogue(
        groups=[m.Crumb(path=name, label=title) for name, title in insert.GROUPS.items()],
        zoo=sorted(zoo, key=lambda entry: (entry.family, entry.parameters)),
        cards=[
            m.Card(id=card.id, title=f"{card.name} · {card.nominal_gb} GB", bytes=card.memory_bytes) for card in cards
        ],
        choices=choices(),
    )


# ---------------------------------------------------------------------------------------------------------------------
# One function for each kind of request
# ---------------------------------------------------------------------------------------------------------------------


def _changed(
    tab: Tab, edits: Sequence[Edit], gesture: str | None = None, select: Sequence[str] | None = None
) -> m.Reply:
    tab.session.edit(edits, gesture=gesture)
    return m.Reply(ok=True, update=update(tab, select=select))


def hello(service: Service, tab: Tab, request: m.Hello) -> m.Reply:
    resumed = bool(tab.answered)
    if request.scenario is not None:
        tab.session.run_as(_setting(request.scenario))
    return m.Reply(ok=True, update=update(tab, fresh=True), catalogue=catalogue(), resumed=resumed)


def _setting(scenario: m.Scenario) -> Setting:
    load_hardware(scenario.hardware)
    for name, known in choices().items():
        if name != "recompute" and getattr(scenario, name) not in known:
            raise CanvasError(f"unknown {name} '{getattr(scenario, name)}'", path=name)
    return Setting(**scenario.model_dump())


def edit(service: Service, tab: Tab, request: m.EditDocument) -> m.Reply:
    return _changed(tab, parse_edits(request.edits), request.gesture)


def set_field(service: Service, tab: Tab, request: m.SetField) -> m.Reply:
    base = tab.session.document
    if request.gesture and tab.session.past and tab.session.past[-1].gesture == request.gesture:
        base = tab.session.past[-1].before
    return _changed(tab, field_edits(base, request), request.gesture)


def connect(service: Service, tab: Tab, request: m.DrawWire) -> m.Reply:
    moved = request.instead if request.instead != request.target else None
    before = [] if moved is None else [wires.cut(tab.session.document, _end(moved))]
    document = apply(tab.session.document, *before)
    return _changed(tab, [*before, *wires.connect(document, _end(request.source), _end(request.target))])


def _end(port: m.Port) -> wires.End:
    return port.path, port.port


def put(service: Service, tab: Tab, request: m.Insert) -> m.Reply:
    ends = {name: None if port is None else _end(port) for name, port in _ports(request).items()}
    spot = insert.Spot(request.path, position=request.position, **ends)
    edits, path = insert.insert(tab.session.document, request.what, spot, tab.session.state.check.shapes)
    tab.inspected = path
    return _changed(tab, edits, select=[path])


def _ports(request: m.Insert) -> Mapping[str, m.Port | None]:
    return {"wire": request.wire, "source": request.source, "target": request.target}


def delete(service: Service, tab: Tab, request: m.Delete) -> m.Reply:
    ends = [_end(port) for port in request.wires]
    return _changed(tab, remove.delete(tab.session.document, request.paths, ends, reconnect=request.reconnect))


def place(service: Service, tab: Tab, request: m.Place) -> m.Reply:
    document = tab.session.document
    by_block: dict[str, dict[str, m.Position | None]] = {}
    for path, position in request.positions.items():
        level, name = split(path)
        by_block.setdefault(scope_at(document, level).block_name, {})[name] = position
    return _changed(tab, [PlaceNodes(block, FrozenMap(placed)) for block, placed in by_block.items()])


def copy(service: Service, tab: Tab, request: m.Copy) -> m.Reply:
    return m.Reply(ok=True, clip=clips.copy(tab.session.document, request.paths))


def paste(service: Service, tab: Tab, request: m.Paste) -> m.Reply:
    edits, paths = clips.paste(tab.session.document, request.clip, request.path, request.position)
    return _changed(tab, edits, select=paths)


def undo(service: Service, tab: Tab, request: m.Undo) -> m.Reply:
    tab.session.undo()
    return m.Reply(ok=True, update=update(tab))


def redo(service: Service, tab: Tab, request: m.Redo) -> m.Reply:
    tab.session.redo()
    return m.Reply(ok=True, update=update(tab))


def look(service: Service, tab: Tab, request: m.Look) -> m.Reply:
    nearest_scope(tab.session.document, request.path)
    tab.path = request.path
    tab.expanded = None if request.expanded is None else tuple(request.expanded)
    return m.Reply(ok=True, update=update(tab))


def inspect(service: Service, tab: Tab, request: m.Inspect) -> m.Reply:
    tab.inspected = request.path
    tab.shown.forget("details")
    return m.Reply(ok=True, update=update(tab))


def scenario(service: Service, tab: Tab, request: m.SetScenario) -> m.Reply:
    tab.session.run_as(_setting(request.scenario))
    return m.Reply(ok=True, update=update(tab))


def offer(service: Service, tab: Tab, request: m.Offers) -> m.Reply:
    return m.Reply(ok=True, offers=offers(tab.session.state, tab.path, tab.expanded or (), request.end, request.side))


def search(service: Service, tab: Tab, request: m.Find) -> m.Reply:
    return m.Reply(ok=True, hits=find(tab.session.document, request.text))


def open_document(service: Service, tab: Tab, request: m.Open) -> m.Reply:
    tab.session.open(_opened(service, tab, request))
    tab.session.retrace(request.undo)
    tab.path, tab.expanded, tab.inspected = "", None, None
    return m.Reply(ok=True, update=update(tab, fresh=True))


def _opened(service: Service, tab: Tab, request: m.Open) -> Document:
    if request.source == "zoo":
        return open_zoo(request.name)
    if request.source == "blank":
        return starts.blank()
    if request.source == "skeleton":
        return starts.skeleton()
    name = request.name or "file"
    data = parse_json(request.text, name)
    if isinstance(data, dict) and "schema_version" in data:
        return parse_document(data, name)
    check_config(data, name)  # at once, and by the name that its user gave it
    with service.line.turn(tab.name):
        limits = service.limits
        document = import_apart(data, name, timeout_s=min(300, limits.job_s), most_bytes=limits.job_bytes)
    return document.replace(name=name.rpartition("/")[2].removesuffix(".json")[:120] or document.name)


def save(service: Service, tab: Tab, request: m.Save) -> m.Reply:
    session = tab.session
    kept = m.Autosave(document=dumps(session.document), undo=session.way_back(UNDO_KEPT), revision=session.revision)
    return m.Reply(ok=True, autosave=kept)


def figures(service: Service, tab: Tab, request: m.Figures) -> m.Reply:
    return m.Reply(ok=True, figures=drawn.figures(tab.session.state, dark=request.dark))


def code(service: Service, tab: Tab, request: m.ReadCode) -> m.Reply:
    return m.Reply(ok=True, files=code_files(tab.session.document))


def code_files(document: Document) -> list[m.File]:
    """What would be emitted. Raises `CanvasError` for a graph that cannot be."""
    languages = {".py": "python", ".json": "json", ".md": "markdown"}
    found = []
    for name, text in emit(document).files.items():
        language = next((word for suffix, word in languages.items() if name.endswith(suffix)), "markdown")
        found.append(m.File(name=name, language=language, text=text))  # type: ignore[arg-type]
    return found


ANSWERS: Mapping[type, Callable[[Service, Tab, Any], m.Reply]] = {
    m.Hello: hello,
    m.EditDocument: edit,
    m.SetField: set_field,
    m.DrawWire: connect,
    m.Insert: put,
    m.Delete: delete,
    m.Place: place,
    m.Copy: copy,
    m.Paste: paste,
    m.Undo: undo,
    m.Redo: redo,
    m.Look: look,
    m.Inspect: inspect,
    m.SetScenario: scenario,
    m.Offers: offer,
    m.Find: search,
    m.Open: open_document,
    m.Save: save,
    m.Figures: figures,
    m.ReadCode: code,
}
