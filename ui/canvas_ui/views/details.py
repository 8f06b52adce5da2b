"""All about one node, for the inspector."""

from collections.abc import Iterator, Sequence

from canvas_rt.edits.data import OUTPUTS
from canvas_rt.edits.wires import in_ports, out_ports
from canvas_rt.errors import CanvasError
from canvas_rt.gestures.insert import shape_of
from canvas_rt.gestures.scope import Scope, item_at, lies_in
from canvas_rt.ir.document import Document, Node, Stack, Use
from canvas_rt.ir.expressions import display, resolve
from canvas_rt.ir.graph import Item, consumers, head
from canvas_rt.ir.halves import sides_of
from canvas_rt.ops.catalogue import OPS, complete
from canvas_rt.ops.functions import RUN_TIME
from canvas_rt.ops.parameters import ParameterRow, parameter_table
from canvas_rt.session import State
from canvas_rt.text import title
from canvas_ui.messages import Details, Formula, ParameterView, Port, Problem, Shape, Source
from canvas_ui.views.costs import Costs
from canvas_ui.views.fields import input_fields, item_fields

ROLES = {
    "attention": "Attention: queries, keys and values are projected, compared, and put together again.",
    "gated_mlp": "A gated MLP: one projection, through an activation, scales another; a third leads back.",
    "mlp": "An MLP: up, activation, down.",
    "moe": "A mixture of experts: a router picks a few of many MLPs for each token.",
    "decoder_layer": "One layer: attention and MLP, each added to the stream.",
    "backbone": "The model without its head: embeddings, layers, last norm.",
    "causal_lm": "The whole language model, with its head.",
}


def details(state: State, path: str, costs: Costs, problems: Sequence[Problem]) -> Details:
    """All about the node at a path. Raises `EditError` where there is none."""
    scope, item = item_at(state.document, path)
    here = [problem for problem in problems if problem.node == path or lies_in(problem.path, path)]
    if isinstance(item, str):
        return _border(state, scope, path, item, here)
    own = costs.of(scope, item.id)
    op = OPS.get(item.op) if isinstance(item, Node) else None
    return Details(
        path=path,
        id=item.id,
        title=title(item) if not isinstance(item, Stack) else f"Stack of {item.kinds[0].block}",
        kind="stack" if isinstance(item, Stack) else "use" if isinstance(item, Use) else "node",
        block=scope.block_name if isinstance(item, Node) else _block(item),
        summary=op.summary if op else ROLES.get(state.document.blocks[_block(item)].role, "") if op is None else "",
        paper=op.source if op else "",
        renamable=True,
        fields=item_fields(scope, item),
        inputs=[_fed(state, scope, item, port) for port in in_ports(state.document, item)],
        outputs=[_read(state, scope, item, port) for port in out_ports(state.document, item)],
        parameters=list(_parameters(state.document, scope, item)),
        share=costs.share(own),
        formulas=list(_formulas(state, scope, item, own.flops if own else 0, own.parameters if own else 0)),
        problems=here,
        layers=_layers(scope),
    )


def _block(item: Item) -> str:
    assert not isinstance(item, Node)
    return item.block if isinstance(item, Use) else item.kinds[0].block


def _layers(scope: Scope) -> str:
    if scope.layers is None:
        return ""
    return f"layers {scope.layers.text} of {scope.layers.count}"


def _border(state: State, scope: Scope, path: str, name: str, problems: list[Problem]) -> Details:
    """A block's input, or its outputs."""
    block = scope.block
    if name == OUTPUTS:
        inputs = [
            Source(port=port, shape=_shape(state, scope, ref), ends=[_end(scope, ref)])
            for port, ref in block.outputs.items()
        ]
        return _plain(
            path, ", ".join(block.outputs) or "out", "output", scope, "What this block gives.", inputs, [], problems
        )
    readers = [Port(path=scope.inside(reader or OUTPUTS), port=port) for reader, port in consumers(block, name)]
    outputs = [Source(port=name, shape=_shape(state, scope, name), ends=readers)]
    what = (
        "Token ids. A tokenizer makes them of text; its vocabulary must have at most vocab_size entries."
        if not scope.path
        else "What this block is given."
    )
    found = _plain(path, name, "input", scope, what, [], outputs, problems)
    fields = input_fields(state.document) if not scope.path and name == block.inputs[0] else []
    return found.model_copy(update={"fields": fields})


def _plain(
    path: str,
    id: str,
    kind: str,
    scope: Scope,
    summary: str,
    inputs: list[Source],
    outputs: list[Source],
    problems: list[Problem],
) -> Details:
    return Details(
        path=path,
        id=id,
        title="Output" if kind == "output" else "Input",
        kind="output" if kind == "output" else "input",
        block=scope.block_name,
        summary=summary,
        paper="",
        renamable=False,
        fields=[],
        inputs=inputs,
        outputs=outputs,
        parameters=[],
        share=None,
        formulas=[],
        problems=problems,
        layers=_layers(scope),
    )


def _shape(state: State, scope: Scope, ref: str | None) -> Shape | None:
    found = shape_of(scope, ref, state.check.shapes)
    return None if found is None else Shape(symbolic=list(found.symbolic), actual=list(found.actual))


def _end(scope: Scope, ref: str) -> Port:
    item = scope.block.node(head(ref))
    outs = out_ports(scope.document, item) if item else ()
    return Port(path=scope.inside(head(ref)), port=ref.partition(".")[2] or (outs[0] if outs else ref))


def _fed(state: State, scope: Scope, item: Item, port: str) -> Source:
    ref = item.inputs.get(port)
    ends = [] if ref is None else [_end(scope, ref)]
    return Source(port=port, shape=_shape(state, scope, ref), ends=ends)


def _read(state: State, scope: Scope, item: Item, port: str) -> Source:
    outs = out_ports(scope.document, item)
    ref = item.id if len(outs) == 1 else f"{item.id}.{port}"
    ends = [
        Port(path=scope.inside(node.id), port=name)
        for node in scope.block.nodes
        for name, known in node.inputs.items()
        if known == ref
    ]
    ends += [Port(path=scope.inside(OUTPUTS), port=name) for name, known in scope.block.outputs.items() if known == ref]
    return Source(port=port, shape=_shape(state, scope, f"{item.id}.{port}"), ends=ends)


def _parameters(document: Document, scope: Scope, item: Item) -> Iterator[ParameterView]:
    try:
        table = parameter_table(document)
    except (CanvasError, KeyError, TypeError):  # a setting without a value: `check` says so
        return
    tied = document.tied
    path = scope.inside(item.id)
    for row in table:
        if lies_in(row.path, path):
            yield _parameter(row, tied.get(row.key, ""))


def _parameter(row: ParameterRow, tied: str) -> ParameterView:
    return ParameterView(key=row.key, shape=list(row.shape), count=row.count, tied=tied)


# ---------------------------------------------------------------------------------------------------------------------


def _formulas(state: State, scope: Scope, item: Item, flops: float, parameters: float) -> Iterator[Formula]:
    """The numbers of a node, in the model's own sizes. Each text, evaluated, is the number beside it."""
    if not isinstance(item, Node) or item.op not in OPS:
        return
    shown = {name: _factor(display(value)) for name, value in complete(item).items()}
    layers = "" if scope.layers is None else f" × {len(scope.layers.chosen)} layers"
    weights = [weight.format(**shown) for weight in _WEIGHTS.get(item.op, ())]
    texts = [" + ".join(weights), *weights[:1]]  # with its bias, or without
    texts = [f"({text})" if " + " in text and layers else text for text in texts]
    yield from _true("parameters", [text + layers for text in texts if text], round(parameters), "", state, scope)
    if item.op in _FLOPS:
        train = state.setting.mode == "train"
        ends = (" × 3" if train else "") + layers
        texts = [_FLOPS[item.op].format(**shown, **lengths) + ends for lengths in _lengths(state, scope, item)]
        yield from _true(
            "FLOPs" + (", forward and backward" if train else ""), texts, round(flops), "FLOP", state, scope
        )


def _true(name: str, texts: list[str], value: int, unit: str, state: State, scope: Scope) -> Iterator[Formula]:
    """The formula that gives the value. Where the layers of a level are not alike, there is none."""
    lengths = state.setting.batch, state.setting.sequence, state.setting.sequence
    names = {**scope.environment, **dict(zip(RUN_TIME, lengths, strict=True))}
    for text in texts:
        try:
            found = resolve("=" + text.replace("×", "*").replace(" layers", ""), names)
        except CanvasError:
            continue
        if value and found == value:
            yield Formula(name=name, text=text, value=value, unit=unit)
            return


_WEIGHTS = {
    "linear": ("{out_features} × {in_features}", "{out_features}"),
    "embedding": ("{num_embeddings} × {embedding_dim}",),
    "rms_norm": ("{size}",),
    "layer_norm": ("{size}", "{size}"),
    "router": ("{num_experts} × {size}",),
    "experts": ("{num_experts} × 2 × {intermediate_size} × {size}", "{num_experts} × {size} × {intermediate_size}"),
}
_FLOPS = {
    "linear": "2 × batch × {new} × {in_features} × {out_features}",
    "router": "2 × batch × {new} × {size} × {num_experts}",
    "experts": "2 × batch × {new} × {each} × 3 × {size} × {intermediate_size}",
    "attention": "4 × batch × {heads} × {new} × {keys} × {width}",
}


def _factor(text: str) -> str:
    """An expression as a factor of a product."""
    return f"({text})" if any(sign in text for sign in "+-/") else text.replace("*", "×")


def _lengths(state: State, scope: Scope, node: Node) -> Iterator[dict[str, str]]:
    """How many positions a kernel may work on: all that are new, or in prefill, for logits, the last."""
    sides = sides_of(scope.document)
    new = "source" if sides.encoded(scope.block_name, node.id) else "seq"
    keys = "source" if (scope.block_name, node.id) in sides.across else new
    found = {"heads": "1", "width": "1", "each": "1", "keys": keys}
    ref = node.inputs.get("q" if node.op == "attention" else "indices")
    shape = shape_of(scope, ref, state.check.shapes)
    if node.op == "attention" and shape is not None and len(shape.symbolic) == 4:
        found |= {"heads": _factor(shape.symbolic[1]), "width": _factor(shape.symbolic[3])}
    if node.op == "experts" and shape is not None:
        found |= {"each": _factor(shape.symbolic[-1])}
    if state.setting.mode == "decode":
        yield {**found, "new": "1", **({} if keys == "source" else {"keys": "(seq + 1)"})}
        if node.op == "attention" and (window := complete(node).get("window")) is not None:
            yield {**found, "new": "1", "keys": _factor(display(window))}
    else:
        yield {**found, "new": new}
        yield {**found, "new": "1"}
