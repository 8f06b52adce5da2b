"""Rotary modules: which modules are, how a trace takes each call of one as one op, and which node a call is.

Nothing here needs the rest of the importer: `trace` replaces their `forward` by an op, and `recognise` asks what a call is.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx, nn

from canvas_rt.importer.proof import Settings, same, written
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.rope import rotary_width
from canvas_rt.ops.rotary import rotary_tables

Leaf = tuple[str, dict[str, Any]]

LAYOUTS = OPS["rotary_embedding"].settings["layout"].options
ANY_LENGTH = 2048
"""The length that a rotary module is said to be made for where its config says none."""

USUAL = {"layer_type": None, "layout": LAYOUTS[0], "wide": False}

_library: Any = torch.library.Library("canvas_rt", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("rotary(Tensor position_ids, int width, bool wide, str? layer_type) -> (Tensor, Tensor)")


def _shape(position_ids: Tensor, width: int, wide: bool, layer_type: str | None) -> tuple[Tensor, Tensor]:
    # Some models number time, height and width: text has one number for all three.
    shape, dtype = (*position_ids.shape[-2:], width), torch.float32 if wide else torch.get_default_dtype()
    return tuple(torch.empty(shape, dtype=dtype, device=position_ids.device) for _ in range(2))  # type: ignore[return-value]


_library.impl("rotary", _shape, "CompositeExplicitAutograd")


def is_rotary(module: nn.Module) -> bool:
    """Whether a module holds rotary frequencies, of one kind or of one for each type of layer, and turns positions."""
    tables = any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
    return tables and "position_ids" in signature(module.forward).parameters


def layer_types(module: nn.Module) -> tuple[str | None, ...]:
    """The types of layer that a rotary module has a table each for; None for the one table of others."""
    names = [name for name, _ in module.named_buffers(recurse=False)]
    own = [
        n.removesuffix("_inv_freq") for n in names if n.endswith("_inv_freq") and not n.endswith("original_inv_freq")
    ]
    return ((None,) if "inv_freq" in names else ()) + tuple(own)


def tables(module: nn.Module, layer_type: str | None, dtype: torch.dtype) -> tuple[int, bool] | None:
    """How wide a module's cosines and sines are, and whether they are of fp32 in a model of `dtype`.

    None for modules that give something else than cosines and sines, such as complex numbers.
    """
    frequencies = getattr(module, "inv_freq" if layer_type is None else f"{layer_type}_inv_freq")
    x = torch.empty(1, 1, 1, dtype=dtype, device=frequencies.device)
    positions = torch.zeros(1, 1, dtype=torch.long, device=frequencies.device)
    try:
        with torch.no_grad():
            given = module(x, positions, **({} if layer_type is None else {"layer_type": layer_type}))
    except RuntimeError:  # dynamic scalings look at numbers, and on meta there are none
        return 2 * frequencies.shape[0], False
    real = isinstance(given, tuple) and len(given) == 2 and not any(part.is_complex() for part in given)
    return (given[0].shape[-1], given[0].dtype is not dtype) if real and given[0].dim() == 3 else None


@contextlib.contextmanager
def rotary_as_one_node(model: nn.Module) -> Iterator[None]:
    """While tracing, each call of a rotary module is one op: dynamic scalings branch on data, which no trace can follow."""
    dtype = next(model.parameters()).dtype
    replaced: list[tuple[nn.Module, Callable[..., Any] | None]] = []
    for module in model.modules():
        if not is_rotary(module):
            continue
        known = {layer_type: tables(module, layer_type, dtype) for layer_type in layer_types(module)}
        if None not in known.values():
            replaced.append((module, module.__dict__.get("forward")))
            module.forward = _one_op(known)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for module, original in replaced:
            if original is None:
                del module.forward
            else:
                module.forward = original


def _one_op(known: Mapping[str | None, tuple[int, bool]]) -> Callable[..., Any]:
    def forward(x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> Any:
        width, wide = known[layer_type if layer_type in known else None]
        return torch.ops.canvas_rt.rotary(position_ids, width, wide, layer_type)

    return forward


def called_for(graph: fx.Graph) -> str | None:
    """The type of layer for which a traced rotary module is called."""
    call = next((node for node in graph.nodes if node.target is torch.ops.canvas_rt.rotary.default), None)
    found = None if call is None else call.args[3]
    assert found is None or isinstance(found, str)
    return found


def rotary_rule(module: nn.Module, layer_type: str | None = None) -> Leaf | None:
    """The node that a rotary module is, called for a type of layer."""
    config = getattr(module, "config", None)
    if not is_rotary(module) or config is None:
        return None
    # A class for one type of layer keeps the parameters of all, so that it can tell which are its own.
    layer_type = layer_type or getattr(module, "layer_type", None)
    parameters = getattr(module, "rope_parameters", None) or getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict) or not isinstance(_table(parameters, layer_type), dict):
        return None
    called = layer_type if layer_type in layer_types(module) else None
    longest = _field(config, "max_position_embeddings")
    if not isinstance(longest, int):  # it was made for no length, and turns at all alike
        longest = ANY_LENGTH
    for settings in _candidates(module, config, parameters, layer_type):
        settings["max_position_embeddings"] = longest
        if all(_equal(module, called, settings, positions) for positions in _positions(longest)):
            order = ("head_dim", "parameters", "max_position_embeddings")
            return "rotary_embedding", {**{name: settings[name] for name in order}, **written(settings, USUAL)}
    return None


def _table(parameters: Mapping[str, Any], layer_type: str | None) -> Any:
    return parameters if layer_type is None else parameters.get(layer_type)


def _positions(longest: int) -> tuple[Tensor, ...]:
    """Within, at and beyond the trained length: dynamic scalings change there, and must change back."""
    return torch.arange(9), torch.arange(longest - 2, longest), torch.arange(2 * longest)


def _equal(module: nn.Module, called: str | None, settings: Settings, positions: Tensor) -> bool:
    try:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.zeros(1, 1, 1, dtype=dtype)
            theirs = module(x, positions[None], **({} if called is None else {"layer_type": called}))
            ours = rotary_tables(positions[None], settings, dtype)
            if not all(same(a, b) for a, b in zip(theirs, ours, strict=True)):
                return False
    except Exception:  # a stranger's module may raise anything
        return False
    return True


def _candidates(
    module: nn.Module, config: Any, parameters: dict[str, Any], layer_type: str | None
) -> Iterator[Settings]:
    for (head_dim, table), layout, wide in product(
        _head_dims(module, config, parameters, layer_type), LAYOUTS, (False, True)
    ):
        yield {"head_dim": head_dim, "parameters": table, "layer_type": layer_type, "layout": layout, "wide": wide}


def _head_dims(
    module: nn.Module, config: Any, parameters: dict[str, Any], layer_type: str | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What width of heads, with which parameters, gives as many frequencies as a module keeps."""
    own = [name for name in ("inv_freq", f"{layer_type}_inv_freq") if hasattr(module, name)]
    width = 2 * getattr(module, own[-1]).shape[0]
    table = _table(parameters, layer_type)
    hidden, heads = _field(config, "hidden_size") or 0, _field(config, "num_attention_heads") or 1
    named = [_field(config, "head_dim"), hidden // heads]
    named += [width, round(width / (table.get("partial_rotary_factor") or 1.0))]
    for head_dim in dict.fromkeys(value for value in named if isinstance(value, int) and value > 0):
        if rotary_width({"head_dim": head_dim, "parameters": table, "layer_type": None}) == width:
            yield head_dim, parameters
    if "partial_rotary_factor" in table:  # which this module has no regard for
        whole = {name: value for name, value in table.items() if name != "partial_rotary_factor"}
        yield width, whole if layer_type is None else {**parameters, layer_type: whole}


def _field(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # a config may have a value for each layer instead, and say so in its own way
        return None
