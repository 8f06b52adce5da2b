"""Check the fields of a config together: what must divide, match, or stay in order. Rules go by field names."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from canvas_rt.errors import ConfigError
from canvas_rt.importer.config.classes import Declared, config_source, model_source
from canvas_rt.importer.config.rope import rotary_tables
from canvas_rt.ir.files import shown

LARGEST_TENSOR = 2**48
"""No matrix of any model comes near as many numbers; beyond, byte counts leave 64 bits."""

EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "moe_top_k", "num_experts_per_token")
"""How many experts there are, and how many serve a token, by the names in use."""

HEAD_WIDTHS = (
    "head_dim",
    "qk_nope_head_dim",
    "qk_head_dim",
    "attention_head_size",
    "dim_head",
    "d_head",
    "attention_hidden_size",
)
"""Fields that say how wide a head is, so that hidden_size need not."""

MULTIPLES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("num_attention_heads",), "num_key_value_heads", "Each key/value head serves an equal group of query heads."),
    (("swa_num_attention_heads",), "swa_num_key_value_heads", "Each key/value head serves an equal group of heads."),
    (("linear_num_value_heads",), "linear_num_key_heads", "Each key head serves an equal group of value heads."),
    (("mamba_n_heads", "mamba_num_heads"), "mamba_n_groups", "Each group serves as many heads."),
    (("n_mamba_heads",), "mamba_ngroups", "Each group serves as many heads."),
    (("num_heads", "mamba_num_heads"), "n_groups", "Each group serves as many heads."),
    (EXPERTS, "n_group", "Each group has as many experts."),
    (EXPERTS, "num_expert_group", "Each group has as many experts."),
)
"""The first field present must be a multiple of the second, and why."""

AT_MOST: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((chosen, EXPERTS) for chosen in CHOSEN),
    ("topk_group", ("n_group", "num_expert_group")),
    ("num_kv_shared_layers", ("num_hidden_layers",)),
    ("num_dense_layers", ("num_hidden_layers",)),
    ("time_step_min", ("time_step_max",)),
)
"""The first must not be greater than the first present of the others."""

LESS: tuple[tuple[str, str], ...] = (
    ("attn_layer_offset", "attn_layer_period"),
    ("expert_layer_offset", "expert_layer_period"),
    ("altup_active_idx", "altup_num_inputs"),
)
"""The first must be less than the second."""

PRODUCTS: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = (
    (("mamba_expand", "hidden_size"), ("mamba_n_heads", "mamba_d_head")),
    (("expand", "hidden_size"), ("num_heads", "head_dim")),
)
"""Products that must be the same; where a factor is "auto" it must come out whole."""

WIDTHS = (
    "vocab_size",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_intermediate_size",
    "shared_expert_intermediate_size",
    "n_inner",
    "max_position_embeddings",
    "hidden_size",
)
"""Sizes that make a matrix with hidden_size."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the relations of one config are checked on."""

    given: dict[str, Any]
    """The fields that the config gives, by canonical name."""

    fields: Mapping[str, Declared]
    """The fields that its model type knows."""

    config_class: Any
    name: str

    def __getitem__(self, field: str) -> Any:
        """A field's value, or what its class takes where it is left out; None where it has none."""
        value = self.given.get(field)
        if value is None and field in self.fields and field not in self.given:
            return self.fields[field].default
        return value

    def whole(self, field: str) -> int | None:
        value = self[field]
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def first(self, fields: tuple[str, ...]) -> tuple[str, int] | None:
        """The first of some fields that is a whole number, and its value."""
        return next(((field, value) for field in fields if (value := self.whole(field)) is not None), None)

    def path(self, field: str) -> str:
        return f"{self.name}: {field}"

    def told(self, *fields: str) -> str:
        """Of some fields, the last that the config gives: the one to name in a message."""
        return next((field for field in reversed(fields) if field in self.given), fields[-1])


def _multiples(facts: Facts) -> None:
    for names, divisor, reason in MULTIPLES:
        found, groups = facts.first(names), facts.whole(divisor)
        if found is None or not groups or found[1] % groups == 0:
            continue
        if divisor == "num_key_value_heads" and facts["num_attention_heads_per_layer"]:
            continue
        left_out = "" if divisor in facts.given else ", left out"
        raise ConfigError(
            f"{found[0]} ({found[1]}) is not a multiple of {divisor} ({groups}{left_out})",
            path=facts.path(divisor),
            hint=reason,
        )


def _latent(facts: Facts) -> None:
    """Attention through a latent vector makes keys and values for every query head."""
    heads, groups = facts.whole("num_attention_heads"), facts.whole("num_key_value_heads")
    if "kv_lora_rank" in facts.fields and groups is not None and heads != groups:
        raise ConfigError(
            f"is {groups}, but there are {heads} query heads, each of which has keys and values of its own",
            path=facts.path(facts.told("num_attention_heads", "num_key_value_heads")),
            hint="Make it num_attention_heads.",
        )


def fill_groups(facts: Facts) -> None:
    """Null key/value heads are as many as query heads, whatever the class takes now."""
    field = facts.fields.get("num_key_value_heads")
    if field is None or facts.given.get(field.name, 0) is not None:
        return
    if "null" not in field.sorts or not works_out(facts.config_class, field.name):
        facts.given[field.name] = facts["num_attention_heads"]


def works_out(cls: Any, field: str) -> bool:
    """Whether a config class finds a value of its own for a field that is null."""
    return any(f"{field} {test}" in config_source(cls) for test in ("is None", "or ", "is not None"))


def needs_whole_heads(cls: Any) -> bool:
    """Whether a class insists on hidden_size being a multiple of the heads, even where it has a head_dim."""
    insists = "self.hidden_size % self.num_attention_heads" in config_source(cls)
    return insists or "hidden_size must be divisible by num_heads" in model_source(cls)


def _open(facts: Facts) -> None:
    """A width that neither the config nor its class gives."""
    field = facts.fields.get("head_dim")
    if field is None or not field.declared or facts["head_dim"] is not None:
        return
    cls = facts.config_class
    takes_null = re.search(r'"head_dim", (self\.)?config\.|config\.head_dim\b', model_source(cls)) is None
    if not takes_null and not works_out(cls, field.own) and f"self.{field.own} = " not in config_source(cls):
        raise ConfigError(
            "is left open, and its class does not work it out", path=facts.path("head_dim"), hint="Set it."
        )


NEEDS: Mapping[str, tuple[str, ...]] = {
    "enable_moe_block": ("num_experts", "top_k_experts", "moe_intermediate_size"),
}
"""Fields that must be given where a flag is true."""


def _needs(facts: Facts) -> None:
    for flag, fields in NEEDS.items():
        missing = next((field for field in fields if facts[flag] is True and facts[field] is None), None)
        if missing:
            raise ConfigError(f"is missing: {flag} needs it", path=facts.path(missing), hint="Add it.")


def _shared(facts: Facts) -> None:
    """Layers that share keys and values find a layer of their kind before them."""
    shared, kinds = facts.whole("num_kv_shared_layers"), facts["layer_types"]
    if shared and isinstance(kinds, list | tuple) and not set(kinds[-shared:]) <= set(kinds[:-shared]):
        raise ConfigError(
            f"is {shared}, but the layers before have none of kind {' or '.join(sorted(set(kinds) - set(kinds[:-shared])))}",
            path=facts.path("num_kv_shared_layers"),
        )


def _axes(facts: Facts) -> None:
    """Positions of two axes have the width of the model together."""
    widths, hidden = facts["axial_pos_embds_dim"], facts.whole("hidden_size")
    if widths and facts["axial_pos_embds"] and hidden and sum(widths) != hidden:
        raise ConfigError(
            f"axial_pos_embds_dim sums to {sum(widths)}, but hidden_size is {hidden}",
            path=facts.path(facts.told("axial_pos_embds_dim", "hidden_size")),
        )


def _heads(facts: Facts) -> None:
    heads, hidden = facts.whole("num_attention_heads"), facts.whole("hidden_size")
    if not heads or not hidden:
        return
    insists = needs_whole_heads(facts.config_class)
    own = facts.first(HEAD_WIDTHS)
    if hidden % heads and (own is None or insists):
        raise ConfigError(
            f"hidden_size ({hidden}) is not a multiple of num_attention_heads ({heads})",
            path=facts.path("hidden_size"),
            hint="Make it a multiple."
            if insists or "head_dim" not in facts.fields
            else "Set head_dim, or make it a multiple.",
        )
    if "rope_parameters" not in facts.fields or "partial_rotary_factor" in facts.fields:
        return
    width = facts.whole("head_dim")
    if own is None and (hidden // heads) % 2:
        raise ConfigError(
            f"gives heads of {hidden // heads} channels; rotary positions turn pairs",
            path=facts.path("hidden_size"),
            hint="Set an even head_dim.",
        )
    if width is not None and width % 2:
        raise ConfigError(f"{width} is odd; rotary positions turn pairs of channels", path=facts.path("head_dim"))
    turned = facts.whole("qk_rope_head_dim")
    if turned is not None and turned % 2:
        raise ConfigError(
            f"{turned} is odd; rotary positions turn pairs of channels", path=facts.path("qk_rope_head_dim")
        )


def _orders(facts: Facts) -> None:
    for smaller, others in AT_MOST:
        few, many = facts[smaller], facts.first(others)
        few = max(few, default=None) if isinstance(few, list | tuple) else few
        if isinstance(few, int | float) and many is not None and few > many[1]:
            raise ConfigError(
                f"{smaller} ({shown(few)}) is more than {many[0]} ({many[1]})",
                path=facts.path(facts.told(many[0], smaller)),
            )
    for smaller, larger in LESS:
        few, most = facts.whole(smaller), facts.whole(larger)
        if few is not None and most is not None and few >= most:
            raise ConfigError(
                f"{smaller} ({few}) must be less than {larger} ({most})", path=facts.path(facts.told(larger, smaller))
            )


def _head_width(facts: Facts) -> None:
    """Where a head's width is a field that must agree with the others."""
    width, heads, hidden = (facts.whole(field) for field in ("d_head", "num_attention_heads", "hidden_size"))
    if heads and hidden and hidden % heads and "d_head" in facts.fields:
        raise ConfigError(
            f"hidden_size ({hidden}) is not a multiple of num_attention_heads ({heads})", path=facts.path("hidden_size")
        )
    if width and heads and hidden and width != hidden // heads:
        raise ConfigError(
            f"d_head is {width}, but hidden_size / num_attention_heads is {hidden // heads}",
            path=facts.path(facts.told("num_attention_heads", "d_head")),
        )


def _products(facts: Facts) -> None:
    for (factor, size), (heads, width) in PRODUCTS:
        numbers = [facts.whole(field) for field in (factor, size, heads)]
        if None in numbers or width not in facts.fields or not set(numbers) - {0}:
            continue
        wide = math.prod(n for n in numbers[:2] if n)
        if facts.whole("mamba_d_ssm"):
            factor, size, wide = "mamba_d_ssm", "", int(facts["mamba_d_ssm"])
        text = " × ".join(filter(None, (factor, size)))
        parts = facts.whole(heads) or 1
        each = facts.whole(width)
        if wide % parts:
            raise ConfigError(
                f"{text} ({wide}) is not a multiple of {heads} ({parts})",
                path=facts.path(facts.told(size or factor, heads)),
            )
        if each is not None and each * parts != wide:
            raise ConfigError(
                f"{text} is {wide}, but {heads} × {width} is {parts * each}",
                path=facts.path(facts.told(size or factor, heads, width)),
            )


def _groups(facts: Facts) -> None:
    """Groups of experts are ranked by their two best, so that each has two."""
    groups, experts = facts.first(("n_group", "num_expert_group")), facts.first(EXPERTS)
    if groups and experts and facts.whole("topk_group") and experts[1] < 2 * groups[1]:
        raise ConfigError(
            f"{experts[0]} ({experts[1]}) leaves less than two experts to each of {groups[1]} groups",
            path=facts.path(facts.told(groups[0], experts[0])),
        )


def _padding(facts: Facts) -> None:
    token, vocabulary = facts.whole("pad_token_id"), facts.whole("vocab_size")
    if token is None or vocabulary is None:
        return
    # A model of codebooks keeps one more row in each for padding.
    if token >= vocabulary + ("num_codebooks" in facts.fields):
        raise ConfigError(
            f"is {token}, beyond the last token, {vocabulary - 1}",
            path=facts.path("pad_token_id"),
            hint="Set it to null, or make vocab_size larger.",
        )
    positions = facts.whole("max_position_embeddings")
    if positions is not None and "type_vocab_size" in facts.fields and token >= positions:
        raise ConfigError(
            f"is {token}, but there are no more than {positions} positions", path=facts.path("max_position_embeddings")
        )


def _languages(facts: Facts) -> None:
    """A default language is one of those that have an adapter."""
    default, known = facts["default_language"], facts["languages"]
    if default is not None and known is not None and default not in known:
        raise ConfigError(
            f"{shown(default)} is none of languages", path=facts.path(facts.told("languages", "default_language"))
        )


def _windows(facts: Facts) -> None:
    """A layer that looks back through a window or in chunks needs to know how far."""
    kinds = facts["layer_types"] or ()
    for kind, field in (("sliding_attention", "sliding_window"), ("chunked_attention", "attention_chunk_size")):
        if kind in kinds and field in facts.given and facts[field] is None:
            raise ConfigError(
                f"is null, but layers of kind '{kind}' need it", path=facts.path(field), hint="Set it, or change them."
            )


def _matrices(facts: Facts) -> None:
    hidden = facts.whole("hidden_size")
    if hidden is None:
        return
    widths = {field: value for field in WIDTHS if (value := facts.whole(field)) is not None}
    experts = facts.first(EXPERTS)
    if experts:
        wide = facts.first(("moe_intermediate_size", "intermediate_size"))
        widths[experts[0]] = experts[1] * (wide[1] if wide else 1)
    head, heads = facts.whole("head_dim"), facts.whole("num_attention_heads")
    if head is not None and heads is not None:
        widths["head_dim"] = head * heads
    for field, width in widths.items():
        if width * hidden > LARGEST_TENSOR:
            raise ConfigError(
                f"gives a matrix of {width} × {hidden} numbers (hidden_size is {hidden}), which is out of range",
                path=facts.path(field),
                hint=f"Canvas stops at 2**{LARGEST_TENSOR.bit_length() - 1} numbers.",
            )


def _longrope(facts: Facts) -> None:
    """Each pair of channels has a factor of its own."""
    heads, hidden = facts.whole("num_attention_heads"), facts.whole("hidden_size")
    width = facts.whole("head_dim") or (hidden // heads if heads and hidden else None)
    for path, rope in rotary_tables(facts.given):
        share = rope.get("partial_rotary_factor", facts["partial_rotary_factor"])
        if width is None or (share is None and "partial_rotary_factor" in facts.fields):
            return
        pairs = int(width * (share or 1)) // 2
        for field in ("short_factor", "long_factor"):
            if field in rope and len(rope[field]) != pairs:
                raise ConfigError(
                    f"has {len(rope[field])} numbers for {pairs} pairs of channels",
                    path=facts.path(f"{path}: {field}"),
                )


CHECKS: tuple[Callable[[Facts], None], ...] = (
    _open,
    _needs,
    _multiples,
    _latent,
    _heads,
    _head_width,
    _axes,
    _shared,
    _orders,
    _products,
    _groups,
    _padding,
    _languages,
    _windows,
    _matrices,
    _longrope,
)


def check_relations(facts: Facts) -> None:
    """Raise `ConfigError` at the first relation that does not hold."""
    for check in CHECKS:
        check(facts)


__all__ = ["CHOSEN", "EXPERTS", "Facts", "check_relations", "fill_groups"]
