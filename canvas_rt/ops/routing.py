"""Which router's choice reaches which experts: told by the wires, through blocks and stacks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from canvas_rt.ir.document import Document, Node, Stack, Use, layer_environment
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import Item, layer_runs, running_order
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.functions import is_function


@dataclass(frozen=True, slots=True)
class Choice:
    """What a router chooses."""

    router: str
    """Its path, as `walk` gives it."""

    offered: int | None
    """Experts that it chooses from; None where plain functions choose, which may know of others too."""

    chosen: int
    """Experts that serve a token."""


@dataclass(frozen=True, slots=True)
class Route:
    """Experts, and the choice that reaches them."""

    experts: str
    """Their path, as `walk` gives it."""

    held: int
    """How many there are."""

    widths: tuple[int, int]
    """Of the values that they take, and within."""

    choice: Choice | None
    """None where what feeds their `indices` chooses nothing."""


Choices = dict[str, Choice | None]

CHOOSING = frozenset({"torch.topk", "torch.max"})
"""The functions that choose experts where a router is written out."""

KEEPING = frozenset(
    {"view", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "slice", "select", "expand", "contiguous"}
    | {"clone", "to", "type_as", "masked_fill", "cat"}
)
"""Functions whose result names the experts that they are given; of two choices, both."""


def function_of(op: str) -> str:
    """`view` of `torch.view`, `cat` of `torch.cat.2`; nothing for what is no plain function."""
    return op.split(".")[1] if is_function(op) else ""


def routes(document: Document) -> tuple[Route, ...]:
    """Every `experts` node that runs, layers alike that stand together once.

    Raises `CanvasError` where a setting has no value; `check` finds all such flaws at once.
    """
    if not any(isinstance(i, Node) and i.op == "experts" for b in document.blocks.values() for i in b.nodes):
        return ()
    found: list[Route] = []
    _Walk(document, found).block(document.root, "", document.environment, {})
    return tuple(found)


class _Walk:
    def __init__(self, document: Document, found: list[Route]) -> None:
        self.document = document
        self.found = found

    def block(self, name: str, prefix: str, environment: Mapping[str, Any], given: Choices) -> Choices:
        """What flows out of a block."""
        block = self.document.blocks[name]
        known = dict(given)
        for item in running_order(block)[0]:
            for port, choice in self.item(item, f"{prefix}{item.id}", environment, known):
                known[f"{item.id}.{port}"] = choice
                known.setdefault(item.id, choice)  # read only where the item has one output
        return {port: known.get(ref) for port, ref in block.outputs.items()}

    def item(
        self, item: Item, path: str, environment: Mapping[str, Any], known: Choices
    ) -> Iterator[tuple[str, Choice | None]]:
        given = {port: known.get(ref) for port, ref in item.inputs.items()}
        if isinstance(item, Use):
            yield from self.block(item.block, f"{path}.", environment, given).items()
        elif isinstance(item, Stack):
            self.stack(item, path, environment, given)
        elif item.op == "router":
            attrs = complete(item)
            yield "indices", Choice(path, *(resolve(attrs[name], environment) for name in ("num_experts", "top_k")))
        elif item.op == "experts":
            attrs = resolve(complete(item), environment)
            widths = attrs["size"], attrs["intermediate_size"]
            self.found.append(Route(path, attrs["num_experts"], widths, given.get("indices")))
        elif item.op in CHOOSING:
            yield "indices", Choice(path, None, resolve(complete(item).get("k", 1), environment))
        elif function_of(item.op) in KEEPING:
            choices = list(given.values())
            if None not in choices[:1]:
                chosen = sum(one.chosen for one in choices if one is not None)
                yield "out", replace(choices[0], chosen=chosen)  # type: ignore[type-var]

    def stack(self, stack: Stack, path: str, environment: Mapping[str, Any], given: Choices) -> None:
        for first, last, kind in layer_runs(stack.kind_indices(resolve(stack.repeat, environment))):
            layers = f"{first}" if first == last else f"{first}-{last}"
            inner = layer_environment(environment, stack.kinds[kind])
            self.block(stack.kinds[kind].block, f"{path}.{layers}.", inner, given)
