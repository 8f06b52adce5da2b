"""The learned tensors of ops, for settings resolved to numbers. Needs no torch."""

from collections.abc import Mapping
from typing import Any, Literal

from canvas_rt.ops.op import ParameterSpec


def experts(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    """All experts in one tensor each, as transformers keeps them: gate and up projection one above the other."""
    experts, size, width = attrs["num_experts"], attrs["size"], attrs["intermediate_size"]
    up, wide = ("gate_up_proj", 2 * width) if attrs["gated"] else ("up_proj", width)
    found = []
    for name, out, into in ((up, wide, size), ("down_proj", size, width)):
        shape = (experts, into, out) if attrs["transposed"] else (experts, out, into)
        found.append(ParameterSpec(name, shape, "normal"))
        if attrs["bias"]:
            found.append(ParameterSpec(f"{name}_bias", (experts, out), "zeros"))
    return tuple(found)


def position_embedding(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    shape = attrs["num_embeddings"], attrs["embedding_dim"]
    return (ParameterSpec("weight", shape, "normal", "trained" if attrs["learned"] else "frozen"),)


def router(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    experts = (attrs["num_experts"],)
    found = [ParameterSpec("weight", (*experts, attrs["size"]), "normal")]
    found += [ParameterSpec("bias", experts, "zeros")] if attrs["bias"] else []
    if attrs["correction"] != "none":
        role: Literal["frozen", "buffer"] = "buffer" if attrs["correction"] == "buffer" else "frozen"
        found.append(ParameterSpec("e_score_correction_bias", experts, "zeros", role))
    return tuple(found)


def norm(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    if not attrs["weight"]:
        return ()
    shape = (attrs["size"],) if attrs["heads"] is None else (attrs["heads"], attrs["size"])
    weight = ParameterSpec("weight", shape, "zeros" if attrs.get("zero_centred") else "ones")
    return (weight, ParameterSpec("bias", shape, "zeros")) if attrs.get("bias") else (weight,)


def linear(attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    shape = (attrs["out_features"], attrs["in_features"])
    weight = ParameterSpec("weight", shape[::-1] if attrs["transposed"] else shape, "normal")
    return (weight, ParameterSpec("bias", shape[:1], "zeros")) if attrs["bias"] else (weight,)
