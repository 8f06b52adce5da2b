"""Ops that hold tensors of their own: a learned one, a constant one, and a module of transformers kept whole. Needs no torch."""

from collections.abc import Mapping
from typing import Any

from canvas_rt.ops.op import Facts, Op, ParameterSpec, Setting, Shape

PARAMETER = "parameter"
CONSTANT = "constant"
MODULE = "module"


def _learned(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    return (ParameterSpec(attrs["key"], tuple(attrs["shape"]), "normal"),)


def _inside(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    return tuple(ParameterSpec(key, tuple(shape), "normal") for key, shape in attrs["keys"].items())


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
            "key": Setting("text", "what its key adds to the node's id, as in `weight`", ""),
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
        summary="A module of transformers that carries a state of its own along the sequence, kept whole.",
        inputs=("x",),
        settings={
            "source": Setting("text", "its class, as in `mamba2.Mamba2Mixer`"),
            "fields": Setting("table", "the fields of the config that it reads"),
            "keys": Setting("table", "the shape of each tensor that it learns"),
        },
        parameters=_inside,
        recover=_as_it_came,
    ),
)

__all__ = ["CONSTANT", "LEARNED", "MODULE", "PARAMETER"]
