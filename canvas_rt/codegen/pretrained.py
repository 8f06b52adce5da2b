"""The base class of the models of a file: what transformers is told of all of them."""

from collections.abc import Sequence

from canvas_rt.codegen.mixture import balanced, init_weights
from canvas_rt.codegen.plan import Plan
from canvas_rt.ir.graph import key_of

REACHING = """
    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        super().set_attn_implementation(*args, **kwargs)
        for module in self.modules():
            if isinstance(getattr(module, "config", None), PretrainedConfig):  # a module of transformers has its own
                module.config._attn_implementation = self.config._attn_implementation
"""
"""Where modules of transformers attend, each with a config of its own."""

OWN_MASKS = """
@staticmethod
def create_masks_for_generate(attention_mask: Tensor | None, **kwargs: Any) -> Tensor | None:
    return attention_mask  # windows differ from layer to layer: forward makes the masks itself
"""


def pretrained_class(plan: Plan) -> str:
    layers = [plan.names.of(name) for name in plan.layer_blocks]
    skipped = '    _skip_keys_device_placement = ["past_key_values"]\n' if plan.task.generates else ""
    takes = "" if plan.task.of_tokens else f'\n    main_input_name = "{plan.task.takes}"'
    prefix = "" if plan.trunk == plan.document.root else backbone_use(plan)
    recorded = records(plan, plan.order) if plan.halves is None else ""
    return f'''
class {plan.names.pretrained}(PreTrainedModel):
    config: {plan.names.config}
    base_model_prefix = "{prefix}"{takes}
    supports_gradient_checkpointing = True
    _no_split_modules = {layers!r}
{skipped}{supported(plan)}
    _can_compile_fullgraph = {not plan.stateful}
{recorded}{init_weights(plan)}{REACHING if plan.whole else ""}'''


def supported(plan: Plan) -> str:
    """Which implementations of attention a model may be given."""
    found = {name: plan.supports(name) for name in ("_supports_flash_attn", "_supports_sdpa", "_supports_flex_attn")}
    found["_supports_attention_backend"] = True
    if all(found.values()):
        return f"    {' = '.join(found)} = True"
    return "\n".join(f"    {name} = {value}" for name, value in found.items())


def records(plan: Plan, blocks: Sequence[str]) -> str:
    """What transformers may record of what some blocks give: layers their states, attention its weights."""
    layers = [name for name in plan.layer_blocks if name in blocks]
    attending = [name for name in blocks if plan.gives_weights(name)]
    across = [name for name in attending if plan.sides.is_across(name)]
    own = [name for name in attending if name not in across]
    classes = {"hidden_states": layers, "attentions": own, "cross_attentions": across}
    found = []
    for what, names in classes.items():
        written = [recorded(plan, name) for name in names]
        if written:
            found.append(f'"{what}": {written[0] if len(written) == 1 else "[" + ", ".join(written) + "]"}')
    if (router := balanced(plan)) is not None:
        found.append(f'"router_logits": OutputRecorder({router[0]}, index=0)')
    return f"    _can_record_outputs = {{{', '.join(found)}}}\n"


def recorded(plan: Plan, block: str) -> str:
    """A class whose modules transformers records: attention gives its weights behind its values, the first of which is usual."""
    name, values = plan.names.of(block), len(plan.document.blocks[block].outputs)
    usual = values == 1 or block in plan.layer_blocks
    return name if usual else f"OutputRecorder({name}, index={values})"


def backbone_use(plan: Plan) -> str:
    """The attribute under which the whole model holds its backbone."""
    root = plan.document.blocks[plan.document.root]
    return next(key_of(item) for item in root.nodes if plan.trunk in getattr(item, "block", ""))
