"""Which layers of a model are alike, and a model cut to one layer of each kind."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn


def stacks_of(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The lists of layers of a model, by path: those as long as its config says that there are layers."""
    config: Any = model.config
    depths = {v for n, v in vars(config).items() if "layers" in n and isinstance(v, int) and not isinstance(v, bool)}
    depths.add(getattr(config, "num_hidden_layers", 0))
    found: dict[str, nn.ModuleList] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) in depths and not inside:
            found[path] = module
    return found


def layer_kinds(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For each list of layers, what tells each layer from those of other kinds."""
    config: Any = model.config
    kinds: dict[str, tuple[str, ...]] = {}
    for path, layers in stacks_of(model).items():
        lists = [v for _, v in sorted(vars(config).items()) if isinstance(v, list | tuple) and len(v) == len(layers)]
        counting = counters(layers)
        kinds[path] = tuple(
            signature(layer, counting) + json.dumps([one[index] for one in lists], default=str)
            for index, layer in enumerate(layers)
        )
    return kinds


def members_of(kinds: Sequence[str]) -> tuple[int, ...]:
    """For each layer, the first that is of its kind."""
    return tuple(kinds.index(kind) for kind in kinds)


def places(kinds: Sequence[Any], times: int) -> list[int]:
    """Where each kind stands first, or for the first few times."""
    return [index for index, kind in enumerate(kinds) if kinds[:index].count(kind) < times]


def cut_to_kinds(
    model: nn.Module, *, twice: bool = False, keep_count: bool = False
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shorten each list of layers to one layer of each kind, plus a second of the first kind, to see one feed the next;
    with `twice` two of each kind, to see what those of one kind hand on.

    Gives, by the list's path, the original indices kept, and for each original layer the index that stands for it.
    With `keep_count` the config goes on saying how many layers there were: what stands outside them may go by that.
    """
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    stacks = stacks_of(model)
    config: Any = model.config
    for path, kinds in layer_kinds(model).items():
        members, layers = members_of(kinds), stacks[path]
        kept = sorted({*places(members, 2 if twice else 1), *([1] if len(layers) > 1 else [])})
        for name, value in list(vars(config).items()):
            if isinstance(value, list | tuple) and len(value) == len(layers):
                object.__setattr__(config, name, [value[index] for index in kept])
        for position, index in enumerate(kept):
            layers[position] = layers[index]
        del layers[len(kept) :]
        found[path] = (tuple(kept), members)
    if found and not keep_count:
        config.num_hidden_layers = max(len(kept) for kept, _ in found.values())
    return found


def counters(layers: nn.ModuleList) -> frozenset[tuple[str, str]]:
    """Attributes of layers that only number them."""
    seen: dict[tuple[str, str], list[bool]] = {}
    for index, layer in enumerate(layers):
        for path, child in layer.named_modules():
            for name, value in vars(child).items():
                if isinstance(value, int) and not isinstance(value, bool):
                    seen.setdefault((path, name), []).append(value == index)
    return frozenset(key for key, counts in seen.items() if len(counts) > 1 and all(counts))


def signature(module: nn.Module, counting: Collection[tuple[str, str]] = ()) -> str:
    """All that tells one layer from another, but for its index: classes, parameter shapes, plain attributes."""
    parts: list[Any] = []
    for path, child in module.named_modules():
        plain = {
            name: value
            for name, value in sorted(vars(child).items())
            if isinstance(value, bool | int | float | str | type(None))
            and name not in ("layer_idx", "training")
            and not name.startswith("_")
            and (path, name) not in counting
        }
        shapes = {name: list(p.shape) for name, p in child.named_parameters(recurse=False)}
        parts.append([path, type(child).__name__, plain, shapes])
    return json.dumps(parts, sort_keys=True, default=str)
