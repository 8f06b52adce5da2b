"""One level of the graph as drawn: its nodes, wires and open frames."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from canvas_rt.edits.data import OUTPUTS
from canvas_rt.edits.wires import in_ports, out_ports
from canvas_rt.errors import CanvasError
from canvas_rt.gestures.insert import shape_of
from canvas_rt.gestures.scope import Layers, Scope, item_at, nearest_scope, span
from canvas_rt.ir.document import Document, Node, Stack, Use
from canvas_rt.ir.expressions import display
from canvas_rt.ir.graph import Item, blocks_of, head, layer_runs, live
from canvas_rt.ops.catalogue import OPS
from canvas_rt.session import State
from canvas_rt.text import detail, title
from canvas_ui.messages import (
    Crumb,
    LayerRange,
    Level,
    NodeView,
    Port,
    PortView,
    Problem,
    Shape,
    Variant,
    WireView,
)
from canvas_ui.views.costs import Costs
from canvas_ui.views.fields import card_fields, tokenizer_field
from canvas_ui.views.frames import default_frames
from canvas_ui.views.problems import of_wire, worst

_PLAIN_OUTPUT = "out"
COUNTS = {("position_ids", ""), ("router", "indices")}
"""Ops and ports that give integers."""


@dataclass
class Drawing:
    """A level while it is being drawn."""

    state: State
    top: Scope
    expanded: frozenset[str]
    costs: Costs
    found: Sequence[Problem]
    uses: Mapping[str, int]
    nodes: list[NodeView] = field(default_factory=list)
    wires: list[WireView] = field(default_factory=list)
    scopes: dict[str, Scope] = field(default_factory=dict)


def draw(state: State, path: str, expanded: Sequence[str] | None, problems: Sequence[Problem]) -> Level:
    """The level that a path leads to, or the nearest above it that is still there."""
    top = nearest_scope(state.document, path)
    opened = default_frames(top) if expanded is None else tuple(expanded)
    drawing = Drawing(state, top, frozenset(opened), Costs(state.report), problems, use_counts(state.document))
    _draw_inside(drawing, top, None)
    _draw_wires(drawing, top)
    return Level(
        path=top.path,
        crumbs=list(crumbs(top)),
        block=top.block_name,
        linked=max(0, drawing.uses.get(top.block_name, 1) - 1),
        layers=_layer_range(top),
        expanded=[frame for frame in opened if frame in drawing.scopes],
        whole=True,
        nodes=drawing.nodes,
        wires=drawing.wires,
    )


def use_counts(document: Document) -> dict[str, int]:
    """In how many places each block stands; layers of a stack that are alike are one place."""
    counts: dict[str, int] = {}
    for block in document.blocks.values():
        for item in block.nodes:
            for name in blocks_of(item):
                counts[name] = counts.get(name, 0) + 1
    return counts


def crumbs(scope: Scope) -> Iterator[Crumb]:
    """The levels from the root down to this one."""
    yield Crumb(path="", label=scope.document.name)
    parts, walked = scope.path.split(".") if scope.path else [], ""
    for index, part in enumerate(parts):
        walked = f"{walked}.{part}".lstrip(".")
        following = parts[index + 1] if index + 1 < len(parts) else ""
        if following[:1].isdecimal():
            continue  # a stack stands for its layers
        label = f"{parts[index - 1]} {part}" if part[0].isdecimal() else part
        yield Crumb(path=walked, label=label)


def _layer_range(scope: Scope) -> LayerRange | None:
    layers = scope.layers
    if layers is None:
        return None
    return LayerRange(
        stack=layers.path,
        first=layers.chosen.start,
        last=layers.chosen.stop - 1,
        count=layers.count,
        variants=list(_variants(layers)),
    )


def _variants(layers: Layers) -> Iterator[Variant]:
    default = layers.stack.kinds[0]
    for first, last, index in layer_runs(layers.kinds):
        kind = layers.stack.kinds[index]
        sizes = [f"{name} {display(value)}" for name, value in kind.sizes.items()]
        block = [] if kind.block == default.block else [kind.block]
        text = span(first, last)
        yield Variant(
            layers=text,
            path=f"{layers.path}.{text}",
            count=last - first + 1,
            block=kind.block,
            label=", ".join([*block, *sizes]),
        )


# ---------------------------------------------------------------------------------------------------------------------


def _draw_inside(drawing: Drawing, scope: Scope, frame: str | None) -> None:
    """The nodes of a level, and of the frames that are open in it."""
    drawing.scopes[scope.path] = scope
    block, needed = scope.block, live(scope.block)
    if frame is None:
        drawing.nodes += [_input_view(drawing, scope, name) for name in block.inputs]
    for item in block.nodes:
        path = scope.inside(item.id)
        opened = isinstance(item, Use) and path in drawing.expanded and path not in drawing.scopes
        drawing.nodes.append(_item_view(drawing, scope, item, frame, item.id not in needed, opened))
        if isinstance(item, Use) and opened:
            _draw_inside(drawing, scope.enter(item), path)
    if frame is None:
        drawing.nodes.append(_output_view(drawing, scope))


def _shape(drawing: Drawing, scope: Scope, ref: str | None) -> Shape | None:
    try:
        found = shape_of(scope, ref, drawing.state.check.shapes)
    except CanvasError:
        return None
    return None if found is None else Shape(symbolic=list(found.symbolic), actual=list(found.actual))


def _position(scope: Scope, name: str) -> tuple[float, float] | None:
    return scope.document.layout.get(f"{scope.block_name}/{name}")


def _dtype(scope: Scope, ref: str | None) -> Literal["float", "int", ""]:
    """Whether a value counts something: token ids, positions, the experts that were picked."""
    if ref is None:
        return ""
    item = scope.block.node(head(ref))
    if item is None:
        given: Literal["float", "int"] = "int" if scope.document.purpose.of_tokens else "float"
        return given if not scope.path else _dtype(*_around(scope, head(ref)))
    return "int" if isinstance(item, Node) and (item.op, ref.partition(".")[2]) in COUNTS else "float"


def _around(scope: Scope, name: str) -> tuple[Scope, str | None]:
    """The level around one, and what feeds an input of it there."""
    path = scope.path
    if scope.layers is not None and path == f"{scope.layers.path}.{scope.layers.text}":
        path = scope.layers.path
    around, item = item_at(scope.document, path)
    assert not isinstance(item, str)
    return around, item.inputs.get(name)


def _input_view(drawing: Drawing, scope: Scope, name: str) -> NodeView:
    shape = _shape(drawing, scope, name)
    readers = any(head(ref) == name for item in scope.block.nodes for ref in item.inputs.values())
    task, root = scope.document.purpose, not scope.path
    taken = root and name == scope.block.inputs[0]
    title, detail = ("Text input", "token ids") if task.of_tokens else ("Image input", "an image's pixels")
    if root and name == task.decodes:
        taken, title, detail = True, "Decoder input", "token ids of the answer so far"
    return NodeView(
        path=scope.inside(name),
        id=name,
        kind="input",
        title=title if taken else "Input",
        detail=detail if taken else "",
        group="io",
        inputs=[],
        fields=[tokenizer_field(scope.document)] if taken and task.of_tokens else [],
        outputs=[PortView(name=name, shape=shape, dtype=_dtype(scope, name), wired=readers)],
        position=_position(scope, name),
    )


def _output_view(drawing: Drawing, scope: Scope) -> NodeView:
    outputs = dict(scope.block.outputs)
    path = scope.inside(OUTPUTS)
    ports = [
        PortView(name=port, shape=_shape(drawing, scope, ref), dtype="float", wired=True)
        for port, ref in outputs.items()
    ]
    if not ports:
        ports = [PortView(name="logits" if not scope.path else _PLAIN_OUTPUT, shape=None, wired=False)]
    severity, problem = worst(drawing.found, path)
    task = scope.document.purpose
    return NodeView(
        path=path,
        id=", ".join(outputs) or ports[0].name,
        kind="output",
        title="Logits" if "logits" in outputs else "Output",
        detail=f"a score for each {'token of the vocabulary' if task.of_tokens else 'label'}"
        if "logits" in outputs
        else "",
        group="io",
        inputs=ports,
        outputs=[],
        severity=severity,
        problem=problem,
        position=_position(scope, OUTPUTS),
    )


def _item_view(drawing: Drawing, scope: Scope, item: Item, frame: str | None, dead: bool, opened: bool) -> NodeView:
    path = scope.inside(item.id)
    document = scope.document
    readers = {ref for node in scope.block.nodes for ref in node.inputs.values()} | set(scope.block.outputs.values())
    outs = out_ports(document, item)
    carried = _carried(drawing, scope, item)
    severity, problem = worst(drawing.found, path)
    own = drawing.costs.of(scope, item.id)
    stack = item if isinstance(item, Stack) else None
    layers = _layers_of(scope, stack) if stack else None
    return NodeView(
        path=path,
        id=item.id,
        kind="frame" if opened else "stack" if stack else "use" if isinstance(item, Use) else "node",
        parent=frame,
        title=title(item) if stack is None else stack.kinds[0].block,
        detail=_detail(scope, item),
        group=_group(document, item),
        inputs=[
            PortView(
                name=port,
                shape=_shape(drawing, scope, item.inputs.get(port)),
                dtype=_dtype(scope, item.inputs.get(port)),
                wired=port in item.inputs,
            )
            for port in in_ports(document, item)
        ],
        outputs=[
            PortView(
                name=port,
                shape=_shape(drawing, scope, f"{item.id}.{port}"),
                dtype=_dtype(scope, item.id if len(outs) == 1 else f"{item.id}.{port}"),
                wired=(item.id if len(outs) == 1 else f"{item.id}.{port}") in readers,
            )
            for port in outs
        ],
        fields=[] if opened else card_fields(scope, item, carried),
        repeat=layers.count if layers else None,
        variants=list(_variants(layers)) if layers and len(set(layers.kinds)) > 1 else [],
        linked=max(0, max((drawing.uses.get(name, 1) for name in blocks_of(item)), default=1) - 1),
        enter=_enter(path, item, layers),
        severity=severity,
        problem=problem,
        dead=dead,
        share=drawing.costs.share(own),
        parameters=round(own.parameters) if own else 0,
        position=_position(scope, item.id),
    )


def _layers_of(scope: Scope, stack: Stack) -> Layers | None:
    try:
        return scope.descend(stack).layers
    except CanvasError:
        return None


def _enter(path: str, item: Item, layers: Layers | None) -> str | None:
    if isinstance(item, Use):
        return path
    return f"{path}.{layers.text}" if layers else None


def _carried(drawing: Drawing, scope: Scope, item: Item) -> list[str]:
    """The sizes that merely pass through an item: what its first input is wide."""
    shape = _shape(drawing, scope, next(iter(item.inputs.values()), None))
    return list(shape.symbolic) if shape else []


def _detail(scope: Scope, item: Item) -> str:
    if isinstance(item, Stack):
        return "layers in a row"
    if isinstance(item, Use):
        role = scope.document.blocks[item.block].role
        return role.replace("_", " ")
    try:
        return detail(item, scope.environment)
    except CanvasError:
        return detail(item)


_ROLES = {"attention": "attention", "gated_mlp": "mlp", "mlp": "mlp", "moe": "moe", "decoder_layer": "stack"}


def _group(document: Document, item: Item) -> str:
    if isinstance(item, Stack):
        return "stack"
    if isinstance(item, Use):
        return _ROLES.get(document.blocks[item.block].role, "block")
    return OPS[item.op].group if item.op in OPS else "block"


# ---------------------------------------------------------------------------------------------------------------------


def _draw_wires(drawing: Drawing, top: Scope) -> None:
    for scope in drawing.scopes.values():
        for item in scope.block.nodes:
            if scope.inside(item.id) in drawing.scopes:
                continue  # an open frame: its wires lead to what is inside
            for port, ref in item.inputs.items():
                _wire(drawing, scope, ref, Port(path=scope.inside(item.id), port=port))
    for port, ref in top.block.outputs.items():
        _wire(drawing, top, ref, Port(path=top.inside(OUTPUTS), port=port))


def _wire(drawing: Drawing, scope: Scope, ref: str, target: Port) -> None:
    source = _origin(drawing, scope, ref)
    if source is None:
        return
    problem = of_wire(drawing.found, scope, target)
    drawing.wires.append(
        WireView(
            id=f"{target.path}:{target.port}",
            source=source,
            target=target,
            shape=_shape(drawing, scope, ref),
            bad=problem is not None,
            problem=problem.message if problem else "",
            hint=problem.hint if problem else "",
        )
    )


def _origin(drawing: Drawing, scope: Scope, ref: str) -> Port | None:
    """The node that is drawn at a wire's beginning: through the borders of open frames."""
    for _ in range(64):  # as deep as frames may nest, both ways
        name, _, port = ref.partition(".")
        item = scope.block.node(name)
        if item is None:
            if name not in scope.block.inputs:
                return None
            if scope.path == drawing.top.path:
                return Port(path=scope.inside(name), port=name)
            around = drawing.scopes[scope.path.rpartition(".")[0]]
            use = around.block.node(scope.path.rpartition(".")[2])
            if use is None or name not in use.inputs:
                return None
            scope, ref = around, use.inputs[name]
            continue
        outs = out_ports(scope.document, item)
        port = port or (outs[0] if outs else "")
        inner = drawing.scopes.get(scope.inside(item.id))
        if inner is None:
            return Port(path=scope.inside(item.id), port=port)
        if port not in inner.block.outputs:
            return None
        scope, ref = inner, inner.block.outputs[port]
    return None
