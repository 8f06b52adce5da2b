"""Rotary positions: the tables of cosines and sines, and how a value is turned by them."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from canvas_rt.ops.rope import rotary_channels, rotary_table, rotary_width


def inverse_frequencies(attrs: Mapping[str, Any], positions: Tensor, device: torch.device) -> tuple[Tensor, float]:
    """The rotation speed of each pair of channels, [width / 2], and the factor on cosines and sines.

    Computed by transformers' own table of scalings. On meta only the shape matters.
    """
    if device.type == "meta":
        return torch.empty(rotary_width(attrs) // 2, dtype=torch.float32, device=device), 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = dict(rotary_table(attrs))
    kind = parameters["rope_type"]
    if kind == "default":
        width = rotary_channels(attrs)
        exponents = torch.arange(0, width, 2, dtype=torch.float) / width
        return (1.0 / parameters["rope_theta"] ** exponents).to(device), 1.0
    config = SimpleNamespace(
        rope_parameters=parameters,
        head_dim=attrs["head_dim"],
        hidden_size=attrs["head_dim"],
        num_attention_heads=1,
        max_position_embeddings=attrs["max_position_embeddings"],
        standardize_rope_params=lambda: None,
    )
    return ROPE_INIT_FUNCTIONS[kind](config, device, seq_len=_length(attrs, parameters, positions))  # type: ignore[no-any-return]


def _length(attrs: Mapping[str, Any], parameters: Mapping[str, Any], positions: Tensor) -> int | None:
    """The length that decides over frequencies: some stretch once a sequence outgrows what the model was trained for."""
    if parameters["rope_type"] == "dynamic":
        return max(int(positions.max()) + 1, int(attrs["max_position_embeddings"]))
    if parameters["rope_type"] == "longrope":
        return int(positions.max()) + 1
    return None


def rotary_tables(positions: Tensor, attrs: Mapping[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each position's angles, [batch, seq, width], or of half the width where each stands once."""
    with torch.no_grad():
        frequencies, factor = inverse_frequencies(attrs, positions, positions.device)
        angles = positions[..., None].float() * frequencies
        if attrs["layout"] == "halves":
            angles = torch.cat((angles, angles), dim=-1)
        elif attrs["layout"] == "interleaved":
            angles = torch.repeat_interleave(angles, 2, dim=-1)
        cos, sin = angles.cos() * factor, angles.sin() * factor
        return (cos, sin) if attrs["wide"] else (cos.to(dtype), sin.to(dtype))


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def rotate_pairs(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    """A value turned by position: as many of its channels as the tables are wide, the others as they are."""
    cos, sin = (_spread(table, attrs) for table in (cos, sin))
    width = cos.shape[-1]
    if width == x.shape[-1] and not attrs.get("joined"):
        return _turn(x, cos, sin, attrs)
    if attrs["tail"]:
        return torch.cat((x[..., :-width], _turn(x[..., -width:], cos, sin, attrs)), dim=-1)
    return torch.cat((_turn(x[..., :width], cos, sin, attrs), x[..., width:]), dim=-1)


def _spread(table: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    """One angle for each channel, and one for all heads."""
    if attrs["tables"] == "first_half":
        table = table[..., : table.shape[-1] // 2]
    if attrs["tables"] != "full":
        interleaved = attrs["style"] == "interleaved"
        table = table.repeat_interleave(2, dim=-1) if interleaved else torch.cat((table, table), dim=-1)
    return table.unsqueeze(2 if attrs["tokens_first"] else 1)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    dtype, style = x.dtype, attrs["style"]
    x = x.float() if attrs["wide"] else x
    if style == "pairs_to_halves":
        x = torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
    turned = rotate_pairs(x) if style == "interleaved" else rotate_half(x)
    if style == "backwards":
        turned = -turned
    result = x * cos + turned * sin
    return result.to(dtype) if attrs["wide"] else result


__all__ = ["inverse_frequencies", "rotary_tables", "rotate", "rotate_half", "rotate_pairs"]
