"""Ops that hold tensors of their own: a learned one, a constant one, and a module of transformers kept whole. Needs no torch."""

from collections.abc import Iterator, Mapping
from typing import Any

from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.op import Facts, Op, ParameterSpec, Problem, Setting, Shape

PARAMETER = "parameter"
CONSTANT = "constant"
MODULE = "module"
MODULE_PORTS = ("x", *(f"x_{index}" for index in range(1, 8)))
"""What a module kept whole may be given, in the order of its `arguments`."""


def _learned(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    role = "trained" if attrs["learned"] else "buffer"
    return (ParameterSpec(attrs["key"], tuple(attrs["shape"]), "normal", role),)  # type: ignore[arg-type]


def _inside(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    return tuple(ParameterSpec(key, tuple(shape), "normal") for key, shape in attrs["keys"].items())


def _kept_whole(facts: Facts) -> Iterator[Problem]:
    """What forbids to make a module: its class, and the fields of its config, must be those that transformers has."""
    from canvas_rt.ops.modules import flaw

    found = flaw(facts.attrs)
    if found is not None:
        yield found


def _as_it_came(facts: Facts) -> tuple[Shape, ...]:
    return (next(iter(facts.shapes.values())),)


LEARNED: tuple[Op, ...] = (
    Op(
        name=PARAMETER,
        title="Parameter",
        group="arithmetic",
        summary="A learned tensor.",
        inputs=(),
        settings={
            "shape": Setting("integers", "its dimensions"),
            "key": Setting("name", "what its key adds to the node's id, as in `weight`", ""),
            "learned": Setting("flag", "whether it is trained, or only kept in the checkpoint", True),
        },
        parameters=_learned,
        recover=lambda facts: (tuple(facts.attrs["shape"]),),
    ),
    Op(
        name=CONSTANT,
        title="Constant",
        group="arithmetic",
        summary="A number, as a tensor of its own.",
        inputs=(),
        settings={
            "value": Setting("number", "the number"),
            "dtype": Setting("dtype", "its dtype", "model"),
        },
        recover=lambda facts: ((),),
    ),
    Op(
        name=MODULE,
        title="Module",
        group="function",
        summary="A module of transformers that no graph can say, kept whole: it runs the original's own code.",
        inputs=MODULE_PORTS,
        optional=frozenset(MODULE_PORTS[1:]),
        settings={
            "source": Setting("text", "its class, as in `mamba2.Mamba2Mixer`"),
            "fields": Setting("table", "the fields of the config that it reads"),
            "by_layer": Setting(
                "table", "the fields of the config that differ by layer, as they are for this one", FrozenMap()
            ),
            "keys": Setting("table", "the shape of each tensor that it learns"),
            "buffers": Setting(
                "table",
                "tensors that the model gives it: for each `sizes` and `values` of its parts, `rank` dimensions in all",
                FrozenMap(),
            ),
            "arguments": Setting("text", "the arguments that it is given, as in `hidden_states,position_ids`", ""),
            "mask": Setting("text", "the argument that takes attention's mask (empty: it attends to nothing)", ""),
            "place": Setting(
                "integer", "where its value stands among those that it gives (-1: it is the only one)", -1
            ),
            "causal": Setting("flag", "whether a query sees only keys before it", True),
            "window": Setting("size", "how many of the nearest keys a query sees (null: all)", optional=True),
            "chunk": Setting(
                "size", "how long the parts are that see only themselves (null: there are none)", optional=True
            ),
        },
        parameters=_inside,
        problems=_kept_whole,
        recover=_as_it_came,
    ),
)

__all__ = ["CONSTANT", "LEARNED", "MODULE", "MODULE_PORTS", "PARAMETER"]
