"""Modules of transformers that no trace can follow: each is kept whole, as one node that runs the original's own code."""

import contextlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from canvas_rt.importer.seen import Visible, from_name
from canvas_rt.ir.document import Node
from canvas_rt.ir.frozen import freeze
from canvas_rt.ops.catalogue import VARIANTS
from canvas_rt.ops.learned import MODULE, MODULE_PORTS
from canvas_rt.ops.modules import config_class, fields_read, is_keepable, read_by_layer, sets_layers_apart, source_name

_library: Any = torch.library.Library("canvas_rt", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "whole(Tensor[] inputs, str names, str mask, str kind, int size, int place, int[] shape, ScalarType dtype) -> Tensor"
)


def _given(inputs: list[Tensor], *settings: Any) -> Tensor:
    return inputs[0].new_empty(settings[-2], dtype=settings[-1])


_library.impl("whole", _given, "CompositeExplicitAutograd")


@dataclass(frozen=True)
class Gives:
    """What a module gave in a run: a tensor, or several of which the first is one."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    place: int
    """Where among several it stands; −1 where it is all that there is."""

    count: int
    taken: tuple[str, ...]
    """The tensors that it was given, by argument."""


def keepable_within(model: nn.Module, path: str, tried: Collection[type]) -> str | None:
    """The innermost module at a path or around it that can be kept whole: made from a config alone, and no layer itself.

    Modules of the classes in `tried` could be, and it did not help.
    """
    parts = path.split(".") if path else []
    for end in range(len(parts), 0, -1):
        outer = ".".join(parts[:end])
        module = model.get_submodule(outer)
        listed = parts[end - 1].isdecimal() or any(isinstance(child, nn.ModuleList) for child in module.children())
        usable = not listed and type(module) not in tried and is_keepable(type(module))
        if usable and [*module.parameters(), *module.buffers()]:
            return outer
    return None


def observed(model: nn.Module, classes: Collection[type], inputs: Mapping[str, Any]) -> dict[nn.Module, Gives]:
    """What modules of some classes give, told by running the model."""
    found: dict[nn.Module, Gives] = {}

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        several = output if isinstance(output, tuple | list) else (output,)
        place = next((index for index, one in enumerate(several) if isinstance(one, Tensor)), None)
        if place is not None:
            first, alone = several[place], not isinstance(output, tuple | list)
            signature = inspect.signature(module.forward)
            bound = signature.bind(*args, **kwargs)
            taken = tuple(name for name, _ in _named(bound, signature) if _needs(module, bound, name, first, place))
            found[module] = Gives(tuple(first.shape), first.dtype, -1 if alone else place, len(several), taken)

    handles = [
        module.register_forward_hook(note, with_kwargs=True) for module in model.modules() if type(module) in classes
    ]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _needs(module: nn.Module, bound: inspect.BoundArguments, name: str, gave: Tensor, place: int) -> bool:
    """Whether a module gives something else without an argument that it can do without."""
    if bound.signature.parameters[name.partition(".")[0]].default is not None:
        return True
    rest = inspect.BoundArguments(bound.signature, type(bound.arguments)(bound.arguments))
    rest.arguments.pop(name.partition(".")[0])
    try:
        result = module.forward(*rest.args, **rest.kwargs)
    except Exception:  # in whatever way a class says that it cannot
        return True
    other = result[place] if isinstance(result, tuple | list) else result
    return not torch.equal(other, gave)


@contextlib.contextmanager
def as_one_node(gives: Mapping[nn.Module, Gives], visible: Any) -> Iterator[None]:
    """While tracing, each of some modules is one op. `visible` tells what a mask lets through."""
    for module, given in gives.items():
        module.forward = _one_op(inspect.signature(module.forward), given, visible)
    try:
        yield
    finally:
        for module in gives:
            del module.forward


def _one_op(signature: inspect.Signature, given: Gives, visible: Any) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        names, tensors, mask, seen = [], [], "", Visible(False, None)
        for name, value in _named(signature.bind(*args, **kwargs), signature):
            if name.endswith("mask"):
                mask, seen = name, visible(value, Visible(True, None))
            else:
                names.append(name)
                tensors.append(value)
        missing = [name for name in given.taken if name not in names and not name.endswith("mask")]
        if missing:
            raise RuntimeError(f"it takes {missing[0]}, which another module gives beside its value")
        kind, size = seen.named
        settings = ",".join(names), mask, kind, size, given.place, list(given.shape), given.dtype
        made = torch.ops.canvas_rt.whole(tensors, *settings)
        if given.place < 0:
            return made
        return tuple(made if index == given.place else None for index in range(given.count))

    return forward


def _named(bound: inspect.BoundArguments, signature: inspect.Signature) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a call is given, by argument; parts of a tuple as `position_embeddings.0`."""
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            continue  # what it only passes on
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, tuple | list):
            yield from ((f"{name}.{index}", one) for index, one in enumerate(value) if isinstance(one, Tensor))


def call_in(graph: fx.Graph) -> fx.Node | None:
    """The op that a module is kept as."""
    return next((node for node in graph.nodes if node.target is torch.ops.canvas_rt.whole.default), None)


def whole_node(module: nn.Module, name: str, call: fx.Node, of_model: Any, layer: int | None) -> Node | None:
    """The node that a module kept whole is, without what feeds it.

    `of_model`: the model's config. `layer`: in which of its layers the module stands.
    """
    names, mask, kind, size, place = call.args[1:6]
    source = source_name(type(module))
    if len(str(names).split(",")) > len(MODULE_PORTS):
        return None
    seen = from_name(str(kind), int(size)) if mask else None  # type: ignore[arg-type]
    config = own_config(module, of_model, source)
    if sets_layers_apart(source):
        config = {**config, **(config.get("per_layer_config") or {}).get(str(layer), {})}
    usual = config_class(source)().to_dict()
    read = {field: config[field] for field in fields_read(source) if field in config}
    if layer is None:  # outside the layers nothing is for one of them
        read = {field: value for field, value in read.items() if not isinstance(value, list | tuple)}
    by_layer = of_layer({*fields_read(source), *read_by_layer(source)}, config, layer)
    attrs = {
        "source": source,
        "fields": {n: v for n, v in read.items() if n not in by_layer and _is_said(v, usual.get(n))},
        "by_layer": by_layer,
        "keys": {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()},
        "arguments": str(names),
        "mask": str(mask),
        "place": int(place),  # type: ignore[arg-type]
    }
    if seen is not None:
        attrs |= {"causal": seen.causal, "window": seen.window, "chunk": seen.chunk}
    usual_settings = VARIANTS["module"]
    written = {n: v for n, v in attrs.items() if n not in usual_settings or usual_settings[n] != v}
    return Node(id=name, op=MODULE, attrs=freeze(written))


def of_layer(names: Collection[str], config: Mapping[str, Any], layer: int | None) -> dict[str, Any]:
    """What stands for a layer in those of some fields of a config that say something for each layer."""
    depth = config.get("num_hidden_layers")
    lists = {name: config[name] for name in sorted(names) if isinstance(config.get(name), list | tuple)}
    return {name: value[layer] for name, value in lists.items() if layer is not None and len(value) == depth}


def own_config(module: nn.Module, of_model: Any, source: str) -> Mapping[str, Any]:
    """The config that a module is made with, as plain data: one that it was seen to be given, the model's, or one within that."""
    known = [vars(module).get(MADE_WITH), getattr(module, "config", None), *vars(of_model).values()]
    own = next((value for value in known if type(value) is config_class(source)), of_model)
    found: Mapping[str, Any] = own.to_dict()
    return found


MADE_WITH = "_canvas_made_with"


@contextlib.contextmanager
def noting_configs(classes: Collection[type]) -> Iterator[None]:
    """While models are made, modules of some classes keep the config that they are given."""
    before = {cls: cls.__init__ for cls in classes}  # type: ignore[misc]
    for cls, made in before.items():
        cls.__init__ = _noting(made)  # type: ignore[misc]
    try:
        yield
    finally:
        for cls, made in before.items():
            cls.__init__ = made  # type: ignore[misc]


def _noting(made: Any) -> Any:
    def init(self: nn.Module, config: Any, *args: Any, **kwargs: Any) -> None:
        made(self, config, *args, **kwargs)
        vars(self)[MADE_WITH] = config

    return init


def _is_said(value: Any, usual: Any) -> bool:
    """Whether a document says what a field is: sizes, switches and tables always, others where they are unlike the class's own."""
    return isinstance(value, bool | int | float | Mapping) or value != usual


def ports_of(graph: fx.Graph, call: fx.Node) -> tuple[tuple[str, ...], ...]:
    """For each used input of a module's graph, the ports that it feeds."""
    inputs = list(call.args[0])  # type: ignore[arg-type]
    placeholders = [node for node in graph.nodes if node.op == "placeholder" and node.users]
    return tuple(
        tuple(MODULE_PORTS[index] for index, source in enumerate(inputs) if source is placeholder)
        for placeholder in placeholders
    )


__all__ = [
    "Gives",
    "as_one_node",
    "call_in",
    "keepable_within",
    "noting_configs",
    "observed",
    "of_layer",
    "own_config",
    "ports_of",
    "whole_node",
]
