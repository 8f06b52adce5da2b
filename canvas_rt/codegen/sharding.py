"""How transformers may lay a model over many cards: the tensor, expert, pipeline and FSDP plans of emitted classes."""

from collections.abc import Iterator, Mapping
from typing import Any

from canvas_rt.codegen.plan import Plan
from canvas_rt.ir.document import Node, Use
from canvas_rt.ir.graph import Item, blocks_of, head, key_of
from canvas_rt.ops.catalogue import complete
from canvas_rt.physics.tensor_parallel import plan as cuts_of

Styles = dict[str, str]
"""For each module or tensor, by its path with `*` for the number of a layer, how it is cut."""

TENSOR = {"columns": "colwise", "rows": "rowwise"}
TURNED = ("heads_first", "apply_rotary", "rotate", "rms_norm", "layer_norm")
"""Ops that give heads where they are given heads."""

PIPELINE = {
    "embed_tokens": (["input_ids"], ["inputs_embeds"]),
    "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
    "norm": (["hidden_states"], ["hidden_states"]),
}
"""All that transformers cuts into stages: these names, and what flows between them."""

FSDP = {"embed_tokens": "free_full_weight", "layers.*": "free_full_weight", "norm": "keep_full_weight"}
"""What every config has, if it says nothing."""


def config_lines(plan: Plan) -> list[str]:
    """The plans of the backbone: class attributes of its config."""
    if plan.halves is not None or plan.trunk == plan.document.root:
        return []
    plans: dict[str, Mapping[str, Any]] = {"tp": tensor_plan(plan), "ep": expert_plan(plan)}
    if in_stages(plan):
        plans["pp"] = PIPELINE
    if (sharded := fsdp_plan(plan)) != FSDP:
        plans["fsdp"] = sharded
    return [f"    base_model_{kind}_plan = {own!r}" for kind, own in plans.items() if own]


def head_lines(plan: Plan) -> list[str]:
    """Those of the head: class attributes of the whole model."""
    made = [item for item in plan.items(plan.document.root) if isinstance(item, Node) and item.op == "linear"]
    if plan.halves is not None or not plan.task.generates or len(made) != 1 or complete(made[0])["transposed"]:
        return []
    name = key_of(made[0])
    lines = [f'    _tp_plan = {{"{name}": "colwise_gather_output"}}'] if tensor_plan(plan) or in_stages(plan) else []
    if in_stages(plan) and name == "lm_head":
        lines.append(f'    _pp_plan = {{"{name}": (["hidden_states"], ["logits"])}}')
    return [*lines, f'    _fsdp_plan = {{"{name}": "keep_full_weight"}}']


def in_stages(plan: Plan) -> bool:
    """Whether the model is tokens embedded, layers, a norm, and nothing between: what transformers can cut into stages."""
    trunk, stack = plan.document.blocks[plan.trunk], plan.main.stack
    items = {key_of(item): item for item in plan.items(plan.trunk)}
    embedding, norm = items.get("embed_tokens"), items.get("norm")
    if embedding is None or norm is None or items.get("layers") != stack or plan.handed_on(stack):
        return False
    flows = {head(ref) for ref in trunk.outputs.values()} == {norm.id} and [*norm.inputs.values()] == [stack.id]
    readers = [item.id for item in items.values() if embedding.id in map(head, item.inputs.values())]
    return flows and readers == [stack.id] and plan.task.generates


def fsdp_plan(plan: Plan) -> Styles:
    """What is gathered together: embeddings, each layer, and what comes behind the layers."""
    found, behind = Styles(), False
    for path, item in _items(plan, plan.trunk, ""):
        if item == plan.main.stack:
            found[f"{path}.*"] = "free_full_weight"
            behind = True
        elif isinstance(item, Node) and item.op == "embedding" and not behind:
            found[path] = "free_full_weight"
        elif isinstance(item, Node) and item.op in ("rms_norm", "layer_norm") and complete(item)["weight"] and behind:
            found[path] = "keep_full_weight"
    return found


def _items(plan: Plan, block: str, prefix: str) -> Iterator[tuple[str, Item]]:
    """What runs outside the layers, each with its path."""
    for item in plan.items(block):
        yield f"{prefix}{key_of(item)}", item
        if isinstance(item, Use):
            yield from _items(plan, item.block, f"{prefix}{key_of(item)}.")


def layers_of(plan: Plan) -> Iterator[tuple[str, str]]:
    """Blocks in the layers, each with its path."""
    stack = plan.main.stack
    if plan.main.holder != plan.trunk:
        return
    for kind in dict.fromkeys(blocks_of(stack)):
        yield from _inside(plan, kind, f"{key_of(stack)}.*")


def _inside(plan: Plan, block: str, path: str) -> Iterator[tuple[str, str]]:
    yield block, path
    for item in plan.items(block):
        if isinstance(item, Use):
            yield from _inside(plan, item.block, f"{path}.{key_of(item)}")


def tensor_plan(plan: Plan) -> Styles:
    """Linears by columns or rows, experts by their width; blocks alike in all layers that have them, or not at all."""
    by_path: dict[str, dict[str, str | None]] = {}
    spoilt: set[str] = set()
    for block, path in layers_of(plan):
        styles = block_styles(plan, block)
        known = by_path.setdefault(path, {})
        if any(known.get(name, style) != style for name, style in styles.items()):
            spoilt.add(path)
        known.update(styles)
    found = {
        f"{path}.{name}": style
        for path, styles in by_path.items()
        for name, style in styles.items()
        if style is not None and path not in spoilt
    }
    return {name: style for name, style in found.items() if style} if "rowwise" in found.values() else {}


def block_styles(plan: Plan, block: str) -> dict[str, str | None]:
    """How the parts of a block are cut, by their keys; None for those that stay whole."""
    cuts, styles = cuts_of(plan.document.blocks[block]), dict[str, str | None]()
    heads: set[str] = set()
    for item in plan.items(block):
        if not isinstance(item, Node):
            continue
        key, attrs, cut = key_of(item), complete(item), cuts.get(item.id)
        if cut == "heads" or (item.op in TURNED and {head(ref) for ref in item.inputs.values()} & heads):
            heads.add(item.id)
        if item.op == "linear":
            styles[key] = TENSOR.get(cut or "")
            if attrs["transposed"]:
                return {}
        elif item.op in ("rms_norm", "layer_norm") and item.id in heads and attrs["weight"]:
            styles[key] = "replicated_with_grad_allreduce"
            if attrs["heads"] is not None:
                return {}
        elif item.op == "experts" and attrs["gated"] and not (attrs["bias"] or attrs["transposed"]):
            styles |= {f"{key}.gate_up_proj": "packed_colwise", f"{key}.down_proj": "rowwise", key: "moe_tp_experts"}
    return styles


def expert_plan(plan: Plan) -> Styles:
    """Experts, some of them on each card."""
    found = Styles()
    for block, path in layers_of(plan):
        for item in plan.items(block):
            if isinstance(item, Node) and item.op == "experts":
                attrs, own = complete(item), f"{path}.{key_of(item)}"
                for name in ("gate_up_proj" if attrs["gated"] else "up_proj", "down_proj"):
                    found[f"{own}.{name}"] = "grouped_gemm"
                    if attrs["bias"]:
                        found[f"{own}.{name}_bias"] = "grouped_gemm"
                found[own] = "ep_dispatch_experts"
    return found


__all__ = ["config_lines", "head_lines"]
