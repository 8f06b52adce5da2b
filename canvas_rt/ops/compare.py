"""Whether two documents describe the same computation with the same parameters, whatever their blocks and nodes are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from canvas_rt.ir.document import LAYER, Block, Document, Node, Stack, Use
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import handed_on, head, key_of
from canvas_rt.ops.catalogue import OPS, complete, parameter_shapes
from canvas_rt.ops.functions import RUN_TIME

NOT_OF_THE_GRAPH = ("num_hidden_layers", "layer_types", "layer_kinds", "encoder_layer_kinds")
"""Values that restate what the graph says itself."""


@dataclass(frozen=True, eq=False)
class Scope:
    """A block at one place of a model."""

    document: Document
    block: Block
    prefix: str
    environments: Sequence[Mapping[str, Any]]
    """What names stand for: at the real sizes, and at others."""

    inputs: Mapping[str, "Value"] = field(default_factory=dict)


Value = tuple[Scope, str] | str
"""A reference within a scope, or a token for what flows in from outside."""


class _Difference(Exception):
    """Names the first place where two graphs differ."""


def difference(a: Document, b: Document, assignments: Sequence[Mapping[str, Any]] = ()) -> str:
    """The first difference between two documents' computations, or nothing.

    Settings are compared by value: at the documents' own sizes, and at each of `assignments`. Names count where they
    make a parameter's key.
    """
    ours, theirs = dict(a.environment), dict(b.environment)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in NOT_OF_THE_GRAPH and ours.get(name) != theirs.get(name):
            return f"{name} is {ours.get(name)!r} in one and {theirs.get(name)!r} in the other"
    if a.task != b.task:
        return f"one is {a.purpose.words}, the other {b.purpose.words}"
    if dict(a.tied) != dict(b.tied):
        return f"ties differ: {dict(a.tied)} and {dict(b.tied)}"
    scopes = [
        Scope(
            d,
            d.blocks[d.root],
            "",
            [environment_of(d, values) for values in ({}, *assignments)],
            {name: name for name in d.blocks[d.root].inputs},
        )
        for d in (a, b)
    ]
    comparison = _Comparison()
    try:
        for output in scopes[0].block.outputs:
            if output not in scopes[1].block.outputs:
                return f"only one gives {output}"
            comparison.same((scopes[0], scopes[0].block.outputs[output]), (scopes[1], scopes[1].block.outputs[output]))
    except _Difference as found:
        return str(found)
    return ""


def environment_of(document: Document, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A document's environment with some sizes set, the others following."""
    known = at_sizes(document, values).environment if values else document.environment
    return {**known, **dict(zip(RUN_TIME, (3, 19, 29), strict=True))}


def at_sizes(document: Document, values: Mapping[str, Any]) -> Document:
    """A document with those of its sizes set that `values` has."""
    sizes = document.sizes.with_items({name: value for name, value in values.items() if name in document.sizes})
    changed: Document = document.replace(sizes=sizes)
    return changed


class _Comparison:
    def __init__(self) -> None:
        self.done: set[tuple[Any, ...]] = set()
        self.scopes: dict[tuple[int, str], Scope] = {}
        self.kept: list[Scope] = []  # ids stay unique while their objects live

    def same(self, a: Value, b: Value) -> None:
        """Raise at the first difference between what two references stand for."""
        a, b = self.resolve(a), self.resolve(b)
        if isinstance(a, str) or isinstance(b, str):
            if a != b:
                raise _Difference(f"{describe(a)} stands where the other has {describe(b)}")
            return
        key = (id(a[0]), a[1], id(b[0]), b[1])
        if key in self.done:
            return
        self.done.add(key)
        first, second = item_of(a), item_of(b)
        where = f"{a[0].prefix}{key_of(first)}"
        if type(first) is not type(second):
            raise _Difference(f"{where} is {describe(a)} in one and {describe(b)} in the other")
        if isinstance(first, Stack) and isinstance(second, Stack):
            self.stacks(a[0], first, b[0], second, where)
        elif isinstance(first, Node) and isinstance(second, Node):
            self.nodes(a, first, b, second, where)

    def resolve(self, value: Value) -> Value:
        """Follow a reference through block inputs and uses to the node or stack that makes it."""
        while not isinstance(value, str):
            scope, ref = value
            if head(ref) in scope.block.inputs:
                value = scope.inputs[head(ref)]
                continue
            item = scope.block.node(head(ref))
            if item is None:
                raise _Difference(f"{scope.prefix}{ref} does not exist")
            if not isinstance(item, Use):
                return value
            inner = self.inner(scope, item)
            value = (inner, inner.block.outputs[ref.partition(".")[2] or next(iter(inner.block.outputs))])
        return value

    def inner(self, scope: Scope, use: Use) -> Scope:
        """The scope of a use: one and the same however often it is asked for, so that shared values are compared once."""
        key = (id(scope), use.id)
        if key not in self.scopes:
            block = scope.document.blocks[use.block]
            inputs: dict[str, Value] = {port: (scope, source) for port, source in use.inputs.items()}
            self.scopes[key] = Scope(scope.document, block, f"{scope.prefix}{key_of(use)}.", scope.environments, inputs)
        return self.scopes[key]

    def nodes(self, a: tuple[Scope, str], first: Node, b: tuple[Scope, str], second: Node, where: str) -> None:
        if first.op != second.op or a[1].partition(".")[2] != b[1].partition(".")[2]:
            raise _Difference(f"{where} is {first.op} in one and {second.op} in the other")
        for ours, theirs in zip(a[0].environments, b[0].environments, strict=True):
            settings, others = resolve(complete(first), ours), resolve(complete(second), theirs)
            for name in settings:
                if settings[name] != others.get(name):
                    raise _Difference(
                        f"{where}: {name} is {settings[name]!r} in one and {others.get(name)!r} in the other"
                    )
            if parameter_shapes(first, settings) and where != f"{b[0].prefix}{key_of(second)}":
                raise _Difference(f"{where} is called {b[0].prefix}{key_of(second)} in the other")
        ports = OPS[first.op].fed(first.inputs)
        if ports != OPS[second.op].fed(second.inputs):
            raise _Difference(f"{where} takes {', '.join(ports)} in one, and not the same in the other")
        for port in ports:
            self.same((a[0], first.inputs[port]), (b[0], second.inputs[port]))

    def stacks(self, a: Scope, first: Stack, b: Scope, second: Stack, where: str) -> None:
        if where != f"{b.prefix}{second.id}":
            raise _Difference(f"{where} is called {b.prefix}{second.id} in the other")
        kinds = [s.kind_indices(resolve(s.repeat, scope.environments[0])) for s, scope in ((first, a), (second, b))]
        if len(kinds[0]) != len(kinds[1]):
            raise _Difference(f"{where} has {len(kinds[0])} layers in one and {len(kinds[1])} in the other")
        sides = (a, first), (b, second)
        own = [handed_on(stack, scope.document.blocks) for scope, stack in sides]
        handed: tuple[dict[str, Value], dict[str, Value]] = {}, {}
        compared: set[tuple[int, int]] = set()
        for layer, pair in enumerate(zip(*kinds, strict=True)):
            if pair in compared and not any(own):  # where values are handed on, it matters which layer's they are
                continue
            compared.add(pair)
            scopes = self.layers((a, first, pair[0]), (b, second, pair[1]), handed, f"{where}.{layer}.")
            # They may be called otherwise in the other: what makes them tells.
            for known, scope, names in zip(handed, scopes, own, strict=True):
                known.update({name: (scope, ref) for name, ref in scope.block.outputs.items() if name in names})
        ours, theirs = carried(a, first), carried(b, second)
        self.same((a, first.inputs[ours]), (b, second.inputs[theirs]))

    def layers(
        self,
        a: tuple[Scope, Stack, int],
        b: tuple[Scope, Stack, int],
        handed: Sequence[Mapping[str, Value]],
        prefix: str,
    ) -> list[Scope]:
        """Compare a layer with the other's. `handed`: for each, what earlier layers hand on."""
        sides = []
        for (scope, stack, index), known in zip((a, b), handed, strict=True):
            kind = stack.kinds[index]
            block = scope.document.blocks[kind.block]
            inputs: dict[str, Value] = {port: (scope, ref) for port, ref in stack.inputs.items()}
            inputs |= known
            inputs[block.inputs[0]] = f"what {prefix[:-1]} is given"
            # What layers have for themselves is a number in an emitted config: the one that it is at the real sizes.
            own = {name: resolve(value, scope.environments[0]) for name, value in kind.sizes.items()}
            number = {LAYER: int(prefix.rstrip(".").rpartition(".")[2])}
            environments = [{**environment, **own, **number} for environment in scope.environments]
            sides.append(Scope(scope.document, block, prefix, environments, inputs))
        self.kept += sides
        references = [(scope, next(iter(scope.block.outputs.values()))) for scope in sides]
        self.same(references[0], references[1])
        return sides


def carried(scope: Scope, stack: Stack) -> str:
    return scope.document.blocks[stack.kinds[0].block].inputs[0]


def item_of(value: tuple[Scope, str]) -> Node | Use | Stack:
    item = value[0].block.node(head(value[1]))
    assert item is not None, value[1]
    return item


def describe(value: Value) -> str:
    if isinstance(value, str):
        return value
    item = item_of(value)
    return f"{item.op} {value[0].prefix}{item.id}" if isinstance(item, Node) else f"{value[0].prefix}{item.id}"
