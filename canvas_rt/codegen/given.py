"""The arguments of a model's `forward`."""

import ast
from collections.abc import Mapping

from canvas_rt.codegen.mixture import balanced
from canvas_rt.codegen.plan import Plan

ARGUMENTS = """
input_ids: Tensor | None
pixel_values: Tensor | None
attention_mask: Tensor | None
token_type_ids: Tensor | None
decoder_input_ids: Tensor | None
decoder_attention_mask: Tensor | None
encoder_outputs: BaseModelOutput | None
encoder_hidden_states: Tensor | None
encoder_attention_mask: Tensor | None
position_ids: Tensor | None
past_key_values: Cache | None
inputs_embeds: Tensor | None
decoder_inputs_embeds: Tensor | None
labels: Tensor | None
use_cache: bool | None
"""
"""What a model is given, in the order in which transformers has it."""

CACHED = ("past_key_values", "use_cache")
"""What only a model that generates is given."""

OF_IMAGES = ("pixel_values",)
"""All that a model of images is given: nothing in an image is padding, and its size is the model's."""

OF_HALVES: Mapping[str, tuple[str, ...]] = {
    "encoder": ("input_ids", "attention_mask", "inputs_embeds"),
    "decoder": (
        "input_ids",
        "attention_mask",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "position_ids",
        "past_key_values",
        "inputs_embeds",
        "use_cache",
    ),
    "both": (
        "input_ids",
        "attention_mask",
        "decoder_input_ids",
        "decoder_attention_mask",
        "encoder_outputs",
        "past_key_values",
        "inputs_embeds",
        "decoder_inputs_embeds",
        "use_cache",
    ),
}
"""What an encoder, a decoder and a model of both are given."""


def given_names(plan: Plan, part: str = "") -> tuple[str, ...]:
    """What a model is given, but for labels; or one `part` of a model that has an encoder and a decoder."""
    if not plan.task.of_tokens:
        return OF_IMAGES
    known = tuple(line.partition(":")[0] for line in ARGUMENTS.split("\n") if line)
    if part:
        return tuple(name for name in known if name in OF_HALVES[part])
    halved = {name for names in OF_HALVES.values() for name in names if name.startswith(("decoder_", "encoder_"))}
    left_out = {"labels", "token_type_ids", *OF_IMAGES, *halved, *(() if plan.task.generates else CACHED)} - {
        *plan.given
    }
    return tuple(name for name in known if name not in left_out)


def signature(plan: Plan, part: str = "", head: bool = False) -> ast.arguments:
    """The arguments of a backbone's `forward`, or with `head` of the whole model's."""
    names = (*given_names(plan, part), *(["labels"] if head else []))
    lines = [f"{line} = None" for line in ARGUMENTS.split("\n") if line.partition(":")[0] in names]
    if head and balanced(plan) is not None:
        lines.append("output_router_logits: bool | None = None")
    if head and plan.task.generates and plan.halves is None:
        lines.append("logits_to_keep: int | Tensor = 0")
    (function,) = ast.parse(f"def forward(self, {', '.join(lines)}, **kwargs: Any): pass").body
    assert isinstance(function, ast.FunctionDef)
    return function.args
