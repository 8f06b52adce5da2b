"""The parts of an emitted module that every Hugging Face model has: config, norms, rotary, base class, backbone, head."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from torch import fx

from canvas_rt.codegen import sharding
from canvas_rt.codegen.blocks import BlockWriter, indent
from canvas_rt.codegen.mixture import balanced, init_weights
from canvas_rt.codegen.plan import Plan
from canvas_rt.codegen.printer import Layout, print_graph
from canvas_rt.codegen.syntax import constant, quote, setting, statements, unparse
from canvas_rt.ir.document import Node, Use, resolution_order
from canvas_rt.ir.expressions import is_expression
from canvas_rt.ir.graph import key_of, reachable_blocks

NULLABLE = {
    "sliding_window": "int",
    "pad_token_id": "int",
    "bos_token_id": "int",
    "eos_token_id": "int | list[int]",
    "decoder_start_token_id": "int",
    "head_dim": "int",
}
"""Fields that may be null, and what they are otherwise."""


def annotation(name: str, value: Any) -> str:
    """A config field's type."""
    if name in NULLABLE:
        return f"{NULLABLE[name]} | None"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float):
        return "float | int"
    if isinstance(value, int):
        return "int"
    if isinstance(value, str):
        return "str"
    return "list | dict | None"


def config_fields(plan: Plan) -> Iterator[tuple[str, str, Any]]:
    """Name, type and default of every field; a size that follows from others is left open."""
    document = plan.document
    for name, value in {**document.sizes, **document.config}.items():
        if name in ("dtype", "num_labels"):  # which every config has for itself
            continue
        if name == "rope_parameters":
            yield name, "RopeParameters | dict | None", None
        elif is_expression(value):
            yield name, "int | None", None
        else:
            yield name, annotation(name, value), value
    if plan.lists_layers:
        yield "layer_types", "list[str] | None", None
    if plan.halves is not None:
        yield "is_encoder_decoder", "bool", True
    for tower in plan.towers:
        if tower.several_classes:
            yield tower.kinds_field, "list[str] | None", None


SAVED = '    _auto_class = "AutoConfig"  # whoever saves a model saves this file with it'


def auto_map(plan: Plan) -> dict[str, str]:
    """Where the Auto classes of transformers find those of the emitted file."""
    names = plan.names
    backbone = {} if plan.trunk == plan.document.root else {"AutoModel": f"model.{names.of(plan.trunk)}"}
    return {"AutoConfig": f"model.{names.config}", **backbone, plan.task.auto: f"model.{names.model}"}


def auto_map_statements(plan: Plan) -> list[ast.stmt]:
    """What puts that into a config: by what the classes' names have in common, where they have something."""
    table, prefix = auto_map(plan), f"model.{plan.names.prefix}"
    endings = {auto: name.removeprefix(prefix) for auto, name in table.items() if name.startswith(prefix)}
    if len(endings) < len(table) or not all(endings.values()):
        return statements("kwargs.setdefault('auto_map', table)", table=constant(table))
    shared = unparse(ast.JoinedStr([ast.Constant(prefix), ast.FormattedValue(ast.Name("name", ast.Load()), -1)]))
    return statements(
        f"names = endings\nkwargs.setdefault('auto_map', {{auto: {shared} for auto, name in names.items()}})",
        endings=constant(endings),
    )


EXPERTS_CALLED = ("num_experts", "num_local_experts", "n_routed_experts")
"""Fields that say how many experts there are: libraries ask for the first two."""


def other_names(plan: Plan) -> list[str]:
    """Names by which a field is found beside its own."""
    fields = {*plan.document.sizes, *plan.document.config}
    own = next((name for name in EXPERTS_CALLED if name in fields), "")
    others = {name: own for name in EXPERTS_CALLED[:2] if own and name not in fields}
    return [f"    attribute_map = {unparse(constant(others))}"] if others else []


def config_class(plan: Plan) -> str:
    lines = ["@strict", f"class {plan.names.config}(PretrainedConfig):"]
    ignored = ['    keys_to_ignore_at_inference = ["past_key_values"]'] if plan.task.generates else []
    lines += [
        f'    model_type = "{model_type(plan)}"',
        SAVED,
        *ignored,
        *other_names(plan),
        *sharding.config_lines(plan),
        "",
    ]
    for name, kind, value in config_fields(plan):
        # A list or table is no default for a class: such a value stands in config.json alone.
        default = "None" if isinstance(value, tuple | Mapping) else unparse(constant(value))
        lines.append(f"    {name}: {kind} = {default}")
    derived = {name: value for name, value in plan.document.sizes.items() if is_expression(value)}
    body: list[ast.stmt] = []
    for name in resolution_order(derived):
        body += statements(
            "if self._name_ is None:\n    self._name_ = value", _name_=name, value=setting(derived[name], "self")
        )
    for tower in plan.towers:
        if tower.several_classes:
            main = tower is plan.main
            body += statements(
                "if self._listed_ is None:\n    self._listed_ = [kind] * count",
                _listed_=tower.kinds_field,
                kind=ast.Constant(tower.stack.kinds[0].block),
                count=quote("self.num_hidden_layers") if main else setting(tower.stack.repeat, "self"),
            )
    body += auto_map_statements(plan)
    body += statements("super().__post_init__(**kwargs)")
    lines += ["", "    def __post_init__(self, **kwargs: Any) -> None:", *indent(indent(unparse(body)))]
    return "\n".join(lines) + "\n"


def model_type(plan: Plan) -> str:
    """A type of its own: under the original's, the library's class would load instead, with our weights."""
    origin = plan.document.origin.model_type.removeprefix("canvas_")
    known = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in origin.lower())
    return f"canvas_{known or 'model'}"


PADDED_POSITIONS = """
def padded_positions(ids: Tensor, past: Tensor, padding_idx: int) -> Tensor:
    real = ids.ne(padding_idx).int()  # [batch, seq]
    return ((real.cumsum(dim=1).type_as(real) + past) * real).long() + padding_idx
"""

WITH_VALUES = '''
def with_values(config: {config}, **values: Any) -> {config}:
    """A copy of a config with some fields changed."""
    changed = copy.copy(config)
{heterogeneous}    for name, value in values.items():
        setattr(changed, name, value)
    return changed
'''

ATTENDING_AS = '''
def attending_as(config: {config}, own: Any) -> Any:
    """The config of a module of transformers, with the implementation of attention that the model has."""
    own._attn_implementation = config._attn_implementation
    return own
'''

REACHING = """
    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        super().set_attn_implementation(*args, **kwargs)
        for module in self.modules():
            if isinstance(getattr(module, "config", None), PretrainedConfig):  # a module of transformers has its own
                module.config._attn_implementation = self.config._attn_implementation
"""
"""Where modules of transformers attend, each with a config of its own."""

HETEROGENEOUS = """    changed.allow_global_per_layer_attribute_access = True  # it is for what stands outside the layers
"""


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


ARGUMENTS = """
input_ids: Tensor | None
pixel_values: Tensor | None
attention_mask: Tensor | None
token_type_ids: Tensor | None
decoder_input_ids: Tensor | None
decoder_attention_mask: Tensor | None
encoder_outputs: BaseModelOutput | tuple | None
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


class BackboneWriter(BlockWriter):
    """Writes the class that holds embedding, layers and final norm."""

    @cached_property
    def part(self) -> str:
        """Which half of the model it is, where there are two."""
        tower = self.plan.tower_at(self.name)
        return tower.part if tower is not None else ""

    @property
    def generates(self) -> bool:
        """Whether it has a cache."""
        return self.plan.task.generates and self.part != "encoder"

    def init(self) -> str:
        body = statements("super().__init__(config)") + self.owner_statements()
        for name, value in self.own_attributes.items():
            body += statements("self._name_ = value", _name_=name, value=value)
        body += self.module_attributes()
        if self.generates and self.plan.without_attention and not (self.plan.stateful or self.plan.whole):
            body += self.cache_places()
        body += statements("self.gradient_checkpointing = False\nself.post_init()")
        return "\n".join([f"def __init__(self, config: {self.plan.names.config}) -> None:", *indent(unparse(body))])

    def cache_places(self) -> list[ast.stmt]:
        """Layers without attention have no place in the cache: those with one are numbered without gaps."""
        if self.part:
            return statements(
                "attentions = [module for module in self.modules() if hasattr(module, 'is_causal')]\n"
                "for causal in (True, False):\n"
                "    for place, module in enumerate(one for one in attentions if one.is_causal == causal):\n"
                "        module.layer_idx = place",
            )
        return statements(
            "attentions = [module for module in self.modules() if hasattr(module, 'is_causal')]\n"
            "for place, module in enumerate(attentions):\n"
            "    module.layer_idx = place",
        )

    def add_node(self, graph: fx.Graph, node: Node, take: Any) -> fx.Node:
        if node.op == "position_ids":
            return self.given(graph, "position_ids")
        if node == self.token_embedding():
            return self.given(graph, "inputs_embeds")
        return super().add_node(graph, node, take)

    def embedded(self, graph: fx.Graph) -> fx.Node:
        """The embedded tokens: given, or made by the first embedding of the block, or by what it takes the tokens to."""
        if self.token_embedding() is not None:
            return self.given(graph, "inputs_embeds")
        ids = {item.id for item in self.order if isinstance(item, Node) and item.op == "embedding"}
        made = [node for node in graph.nodes if node.op == "call_module"]
        found = [node for node in made if node.target in ids]
        found += [n for n in made if any(arg.target == "input_ids" for arg in n.all_input_nodes)]
        return found[0] if found else self.given(graph, "inputs_embeds")

    def given(self, graph: fx.Graph, name: str) -> fx.Node:
        """A value that the statements before the graph compute."""
        for node in graph.nodes:
            if node.op == "placeholder" and node.target == name:
                return cast(fx.Node, node)
        first = next(iter(graph.nodes))
        with graph.inserting_before(first):
            return graph.placeholder(name)

    def token_embedding(self) -> Node | None:
        """The embedding that `inputs_embeds` stands in for: the one that reads the tokens, if there is just one."""
        readers = [item for item in self.block.nodes if "input_ids" in item.inputs.values()]
        if len(readers) == 1 and isinstance(readers[0], Node) and readers[0].op == "embedding":
            return readers[0]
        return None

    def layout(self, graph: fx.Graph) -> Layout:
        if not self.plan.task.of_tokens:
            return self.image_layout(graph)
        embedding = self.token_embedding()
        needs_positions = any(node.op == "placeholder" and node.target == "position_ids" for node in graph.nodes)
        needs_positions = needs_positions or "padded_positions" in {getattr(i, "op", "") for i in self.order}
        inside = reachable_blocks(self.plan.document, self.name)
        needs_positions = needs_positions or bool(self.plan.positioned & {*inside})
        needs_positions = needs_positions or (self.plan.attention_anywhere and self.part != "encoder")
        if embedding is None:
            before = statements(
                "if input_ids is None or inputs_embeds is not None:\n"
                "    raise ValueError('give input_ids, and no inputs_embeds: the tokens are embedded within a block')\n"
            )
        else:
            before = statements(
                "if (input_ids is None) == (inputs_embeds is None):\n"
                "    raise ValueError('give exactly one of input_ids and inputs_embeds')\n"
                "if inputs_embeds is None:\n    inputs_embeds = held(input_ids)",
                held=self.held[key_of(embedding)],
            )
        for name in self.plan.given[1:] if not self.part else ():
            source = "input_ids" if embedding is None else "inputs_embeds[..., 0]"
            before += statements(
                f"if _name_ is None:\n    _name_ = torch.zeros_like({source}, dtype=torch.long)", _name_=name
            )
        cached = self.context and self.generates
        if cached:
            made = "DynamicCache(config=self.config)"
            made = f"EncoderDecoderCache({made}, {made})" if self.part else made
            before += statements(f"if use_cache and past_key_values is None:\n    past_key_values = {made}")
        given = "inputs_embeds" if embedding is not None else "input_ids"
        if needs_positions:
            past = "past_key_values.get_seq_length() if past_key_values is not None else 0" if cached else "0"
            told = f"    past = {past}\n" if self.generates else ""
            numbered = f"torch.arange({given}.shape[1], device={given}.device)"
            before += statements(
                f"position_ids = {numbered}.unsqueeze(0)"
                if self.part == "encoder"
                else f"if position_ids is None:\n{told}    position_ids = ({numbered}{' + past' if told else ''})[None]\n"
            )
        before += self.mask_statements(embedding is not None)
        before += self.read_sizes(graph)
        context = self.told_layers() if self.context else []
        shared = {"position_ids", "use_cache"}
        wired = {port for name in self.plan.layer_blocks for port in self.plan.document.blocks[name].inputs}
        if shared <= {word.arg for word in context} and not self.plan.positioned and not shared & wired:
            before += statements("kwargs.update(position_ids=position_ids, use_cache=use_cache)")  # for all layers
            context = [word for word in context if word.arg not in shared]
        gives = "BaseModelOutputWithPast" if self.generates else "BaseModelOutput"
        gives += "AndCrossAttentions" if self.part == "decoder" else ""
        gives = "MoeModelOutputWithPast" if balanced(self.plan) is not None else gives
        more = ", past_key_values=past_key_values" if self.generates else ""
        return Layout(
            signature(self.plan, self.part),
            gives,
            before,
            {name: name for name in (self.block.inputs if self.part else self.plan.given)},
            lambda value: statements(f"return {gives}(last_hidden_state=value{more})", value=value),
            context,
            self.comments(graph),
            ("merge_with_config_defaults", "capture_outputs"),
        )

    def told_layers(self) -> list[ast.keyword]:
        """What layers are told beside their values, by keyword."""
        mask = "mask" if self.plan.attention_anywhere else "attention_mask"
        told = {"attention_mask": mask}
        if self.plan.stateful:
            told["recurrent_mask"] = "recurrent_mask"
        if self.part == "decoder":
            told["encoder_attention_mask"] = "encoder_mask"
        names: tuple[str, ...] = ("past_key_values", "position_ids", "use_cache")
        if self.part:  # attention that looks across would take the decoder's positions for its keys'
            inside = reachable_blocks(self.plan.document, self.name)
            names = ("past_key_values", *(["position_ids"] if self.plan.positioned & {*inside} else []))
        given = (*given_names(self.plan, self.part), "position_ids")  # which an encoder counts itself
        told |= {name: name for name in names if name in given}
        wanted = {n for name in self.plan.layer_blocks for n in self.plan.wants(name)} if self.part else told.keys()
        kept = {name: value for name, value in told.items() if name in wanted or name == "position_ids"}
        return [*(ast.keyword(n, ast.Name(v, ast.Load())) for n, v in kept.items()), ast.keyword(None, quote("kwargs"))]

    def image_layout(self, graph: fx.Graph) -> Layout:
        """Of a model that takes images: it numbers no tokens, and masks nothing."""
        takes = self.plan.task.takes
        before = statements("if x is None:\n    raise ValueError('give pixel_values')", x=takes)
        return Layout(
            signature(self.plan),
            "BaseModelOutput",
            [*before, *self.read_sizes(graph)],
            {takes: takes},
            lambda value: statements("return BaseModelOutput(last_hidden_state=value)", value=value),
            [ast.keyword(None, ast.Name("kwargs", ast.Load()))] if self.context else [],
            self.comments(graph),
            ("merge_with_config_defaults", "capture_outputs"),
        )

    def mask_statements(self, embedded: bool) -> list[ast.stmt]:
        """The masks, by what transformers offers for the attention implementation in use."""
        if not self.context:
            return []
        embeds = (
            "inputs_embeds"
            if embedded
            else "torch.empty(*input_ids.shape, 1, dtype=self.dtype, device=input_ids.device)"
        )
        arguments = f"config=self.config, inputs_embeds={embeds}, attention_mask=attention_mask"
        tower = self.plan.tower_at(self.name)
        if self.generates:
            arguments += ", past_key_values=past_key_values, position_ids=position_ids"
        elif tower is not None and self.plan.is_causal(tower):
            arguments += ", past_key_values=None"
        arguments += ", allow_is_causal_skip=False" if self.plan.always_masked else ""
        recurrent = (
            statements(f"recurrent_mask = create_recurrent_attention_mask({arguments})") if self.plan.stateful else []
        )
        if self.part == "decoder" and self.plan.sides.across:
            recurrent += statements(
                f"encoder_mask = create_bidirectional_mask(config=self.config, inputs_embeds={embeds},"
                " attention_mask=encoder_attention_mask, encoder_hidden_states=encoder_hidden_states)"
            )
        return recurrent + (self.attention_masks(arguments) if self.plan.attention_anywhere else [])

    def attention_masks(self, arguments: str) -> list[ast.stmt]:
        tower = self.plan.tower_at(self.name)
        if tower is not None and not self.plan.is_causal(tower):
            return self.masks_both_ways(arguments)
        if self.plan.masks:
            windows = statements(
                f"mask_arguments = {as_table(arguments)}\n"
                "windows = {module.sliding_window for module in self._name_.modules() if hasattr(module, 'sliding_window')}\n"
                "mask = {window: create_causal_mask(**mask_arguments) if window is None"
                f" else {self.own_mask(chunk=False)} for window in windows}}",
                _name_=self.plan.backbone[1].id,
            )
            if self.plan.stack[0] != self.name:
                windows = statements(
                    unparse(windows).replace(f"self.{self.plan.backbone[1].id}.modules", "self.modules")
                )
            if any(window.startswith("chunk") for window in self.plan.windows):
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
        given = "input_ids" if self.token_embedding() is None else "inputs_embeds"
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

    def source(self) -> str:
        graph = self.graph()
        forward = print_graph(graph, self.layout(graph))
        lines = [
            f"class {self.plan.names.of(self.name)}({self.plan.names.pretrained}):",
            *(records(self.plan, reachable_blocks(self.plan.document, self.name)).splitlines() if self.part else []),
            *([""] if self.part else []),
            *indent(self.init()),
            *indent(embedding_access(self.plan, self.name)),
            "",
            *indent(forward),
        ]
        return "\n".join(lines) + "\n"


def in_order(arguments: str) -> str:
    """What every causal mask is made of, by its place rather than its name."""
    for name in ("config", "inputs_embeds", "attention_mask", "past_key_values", "position_ids"):
        arguments = re.sub(rf"(?<!\w){name}=", "", arguments, count=1)
    return arguments


def as_table(arguments: str) -> str:
    """Keyword arguments as the text of a dict."""
    call = cast(ast.Call, quote(f"dict({arguments})"))
    return unparse(ast.Dict([ast.Constant(keyword.arg) for keyword in call.keywords], [k.value for k in call.keywords]))


def embedding_access(plan: Plan, block: str) -> str:
    """Where the embedding of tokens is, for what transformers does with it; nothing where it looks by itself."""
    path = embedding_path(plan, block)
    if path in ("", "embed_tokens"):
        return ""
    return unparse(
        statements(
            f"def get_input_embeddings(self) -> nn.Embedding:\n    return self.{path}\n\n"
            f"def set_input_embeddings(self, value: nn.Embedding) -> None:\n    self.{path} = value"
        )
    )


def output_access(plan: Plan) -> str:
    """Where the embedding of what is said is; nothing where transformers looks by itself."""
    tied = [key.removesuffix(".weight") for key in plan.document.ties if key.endswith(".weight")]
    root = [item for item in plan.items(plan.document.root) if isinstance(item, Node) and item.op == "linear"]
    path = next(iter(tied or [key_of(item) for item in root]), "lm_head")
    if (
        path == "lm_head"
        or len(tied) > 1
        or not plan.task.of_tokens
        or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", path)
    ):
        return ""
    return unparse(
        statements(
            f"def get_output_embeddings(self) -> nn.Module:\n    return self.{path}\n\n"
            f"def set_output_embeddings(self, value: nn.Linear) -> None:\n    self.{path} = value"
        )
    )


def embedding_path(plan: Plan, block: str) -> str:
    """The path of the embedding that reads the tokens, from a block down; nothing where there is none."""
    inner = plan.document.blocks[block]
    for item in inner.nodes:
        if "input_ids" not in item.inputs.values():
            continue
        if isinstance(item, Node) and item.op == "embedding":
            return _path_of(plan, block, item)
        if isinstance(item, Use):
            port = next(port for port, ref in item.inputs.items() if ref == "input_ids")
            deeper = embedding_path(plan, item.block) if port == "input_ids" else ""
            if deeper:
                return f"{_path_of(plan, block, item)}.{deeper}"
    return ""


def _path_of(plan: Plan, block: str, item: Node | Use) -> str:
    """What is written behind `self.` for a module of a block."""
    return unparse(BlockWriter(plan, block).held[key_of(item)]).removeprefix("self.")
