"""The masks of attention: what a model makes of padding, order and windows before its first layer."""

import ast
import re
from dataclasses import dataclass
from typing import cast

from canvas_rt.codegen.plan import Plan, Tower
from canvas_rt.codegen.syntax import quote, setting, statements, unparse
from canvas_rt.ir.expressions import is_expression


@dataclass(frozen=True)
class Masks:
    """Of the block that holds embedding and layers."""

    plan: Plan
    name: str
    """The block's."""

    tower: Tower | None
    """Its stack."""

    cached: bool
    """Whether it has a cache."""

    embedded: bool
    """Whether it is given `inputs_embeds`, or tokens alone."""

    def statements(self) -> list[ast.stmt]:
        """What makes the masks, by what transformers offers for the attention implementation in use."""
        embeds = (
            "inputs_embeds"
            if self.embedded
            else "torch.empty(*input_ids.shape, 1, dtype=self.dtype, device=input_ids.device)"
        )
        arguments = f"config=self.config, inputs_embeds={embeds}, attention_mask=attention_mask"
        if self.cached:
            arguments += ", past_key_values=past_key_values, position_ids=position_ids"
        elif self.tower is not None and self.plan.is_causal(self.tower):
            arguments += ", past_key_values=None"
        arguments += ", allow_is_causal_skip=False" if self.plan.always_masked else ""
        recurrent = (
            statements(f"recurrent_mask = create_recurrent_attention_mask({arguments})") if self.plan.stateful else []
        )
        if self.tower is not None and self.tower.part == "decoder" and self.plan.sides.across:
            recurrent += statements(
                f"encoder_mask = create_bidirectional_mask(config=self.config, inputs_embeds={embeds},"
                " attention_mask=encoder_attention_mask, encoder_hidden_states=encoder_hidden_states)"
            )
        return recurrent + (self.attention_masks(arguments) if self.plan.attention_anywhere else [])

    def attention_masks(self, arguments: str) -> list[ast.stmt]:
        if self.tower is not None and not self.plan.is_causal(self.tower):
            return self.masks_both_ways(arguments)
        if self.plan.masks:
            chunked = any(window.startswith("chunk") for window in self.plan.windows)
            windows = statements(
                f"mask_arguments = {as_table(arguments)}\n"
                "windows = {module.sliding_window for module in self._name_.modules() if hasattr(module, 'sliding_window')}\n"
                f"mask{': dict[Any, Tensor | None]' if chunked else ''} = "
                "{window: create_causal_mask(**mask_arguments) if window is None"
                f" else {self.own_mask(chunk=False)} for window in windows}}",
                _name_=self.plan.backbone[1].id,
            )
            if self.plan.stack[0] != self.name:
                windows = statements(
                    unparse(windows).replace(f"self.{self.plan.backbone[1].id}.modules", "self.modules")
                )
            if chunked:
                windows += statements(
                    "chunks = {m.attention_chunk_size for m in self.modules() if hasattr(m, 'attention_chunk_size')}\n"
                    f"mask |= {{('chunk', size): {self.own_mask(chunk=True)} for size in chunks}}"
                )
            return windows
        arguments = in_order(arguments)
        if self.plan.windows == {"None"}:
            return statements(f"mask = create_causal_mask({arguments})")
        (window,) = self.plan.windows
        if window == "chunk =attention_chunk_size":
            return statements(f"mask = create_chunked_causal_mask({arguments})")
        if window.startswith("chunk "):
            size = window.removeprefix("chunk ")
            size = unparse(setting(size if is_expression(size) else int(size), "self.config"))
            overlay = f"chunked_overlay({size}, {self.no_padding})"
            return statements(f"mask = create_causal_mask({arguments}, and_mask_function={overlay})")
        if window == "=sliding_window":
            return statements(
                "make_mask = create_causal_mask if self.config.sliding_window is None else create_sliding_window_causal_mask\n"
                f"mask = make_mask({arguments})"
            )
        overlay = unparse(setting(window if is_expression(window) else int(window), "self.config"))
        return statements(
            f"mask = create_causal_mask({arguments}, and_mask_function=sliding_window_overlay({overlay}))"
        )

    @property
    def no_padding(self) -> str:
        """How many tokens are left out at the start of each sequence."""
        given = "inputs_embeds" if self.embedded else "input_ids"
        return f"torch.zeros({given}.shape[0], dtype=torch.long)"

    def own_mask(self, *, chunk: bool) -> str:
        """What makes the mask of a window or a chunk: where it is the config's, transformers leaves it out if nothing is hidden."""
        given = {span for span in self.plan.windows - {"None"} if span.startswith("chunk") == chunk}
        if given == {"chunk =attention_chunk_size" if chunk else "=sliding_window"}:
            return f"create_{'chunked' if chunk else 'sliding_window'}_causal_mask(**mask_arguments)"
        overlay = f"chunked_overlay(size, {self.no_padding})" if chunk else "sliding_window_overlay(window)"
        return f"create_causal_mask(**mask_arguments, and_mask_function={overlay})"

    def masks_both_ways(self, arguments: str) -> list[ast.stmt]:
        """Masks of a model that sees later tokens too: they hide padding, and what is out of a window."""
        if self.plan.windows == {"None"}:
            return statements(f"mask = create_bidirectional_mask({arguments})")
        if not self.plan.masks:
            (window,) = self.plan.windows
            size = unparse(setting(window if is_expression(window) else int(window), "self.config"))
            overlay = f"sliding_window_bidirectional_overlay({size} - 1)"  # which sees as far as that, and that too
            return statements(f"mask = create_bidirectional_mask({arguments}, and_mask_function={overlay})")
        return statements(
            f"mask_arguments = {as_table(arguments)}\n"
            "windows = {module.sliding_window for module in self.modules() if hasattr(module, 'sliding_window')}\n"
            "mask = {window: create_bidirectional_mask(**mask_arguments) if window is None"
            " else create_bidirectional_mask(**mask_arguments,"
            " and_mask_function=sliding_window_bidirectional_overlay(window - 1))"
            " for window in windows}"
        )


def in_order(arguments: str) -> str:
    """What every causal mask is made of, by its place rather than its name."""
    for name in ("config", "inputs_embeds", "attention_mask", "past_key_values", "position_ids"):
        arguments = re.sub(rf"(?<!\w){name}=", "", arguments, count=1)
    return arguments


def as_table(arguments: str) -> str:
    """Keyword arguments as the text of a dict."""
    call = cast(ast.Call, quote(f"dict({arguments})"))
    return unparse(ast.Dict([ast.Constant(keyword.arg) for keyword in call.keywords], [k.value for k in call.keywords]))
