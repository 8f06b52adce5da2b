"""Write a document as one file that needs PyTorch alone: the same blocks, without what transformers asks for."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import groupby
from typing import Any

from torch import fx

from canvas_rt.codegen import leaves, mixture, rotations
from canvas_rt.codegen.attention import RELATIVE_BIAS, alibi_function
from canvas_rt.codegen.backbone import PADDED_POSITIONS, BackboneWriter
from canvas_rt.codegen.blocks import BlockWriter, indent
from canvas_rt.codegen.configs import config_fields
from canvas_rt.codegen.head import HeadWriter
from canvas_rt.codegen.modules import Classes, rotary_name
from canvas_rt.codegen.plain_modules import KEPT, is_known
from canvas_rt.codegen.plain_text import (
    ACTIVATION_TEXTS,
    ACTIVATIONS,
    CONFIG,
    CONV1D,
    HEADER,
    OF_LAYERS,
    attend,
    reads_longest,
    rotary_class,
    sees,
)
from canvas_rt.codegen.plan import Names, Plan
from canvas_rt.codegen.printer import Layout, print_graph
from canvas_rt.codegen.syntax import constant, quote, statements, unparse
from canvas_rt.errors import EmitError
from canvas_rt.ir.document import Document, Node, Stack
from canvas_rt.ir.expressions import expression, is_expression, resolve
from canvas_rt.ir.frozen import FrozenMap, thaw
from canvas_rt.ir.graph import key_of, walk
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.learned import MODULE
from canvas_rt.ops.parameters import parameter_keys
from canvas_rt.ops.rope import rotary_table

AS_CODE = "Emit the package, whose code may use transformers: without --plain, or with target='code'."


@dataclass
class PlainPlan(Plan):
    """A model without cache, masks from outside, and implementations of attention: blocks take values alone."""

    @cached_property
    def names(self) -> Names:
        return Names(self.document.root, self.task, lead="")

    @property
    def classes(self) -> Classes:
        return Classes(self.names.prefix, plain=True, longest=reads_longest(self.rope_tables))

    @cached_property
    def rope_tables(self) -> list[Mapping[str, Any]]:
        """The rope parameters of every rotary embedding."""
        found = leaves.nodes(self, "rotary_embedding")
        return [rotary_table(resolve(complete(node), self.document.environment)) for node in found]

    @cached_property
    def attending(self) -> frozenset[str]:
        return frozenset()

    @cached_property
    def stateful(self) -> frozenset[str]:
        return frozenset()

    def gives_weights(self, block: str) -> bool:
        return False

    def cached(self, block: str) -> bool:
        return False

    def validate(self) -> None:
        if self.halves is not None:
            what = f"{self.task.words}: plain code is one stack of layers"
            raise EmitError(what, path=self.document.root, hint=AS_CODE)
        kept = next((node for node in leaves.nodes(self, MODULE) if not is_known(node)), None)
        if kept is not None:
            source = complete(kept)["source"].partition(".")[2]
            where = next(name for name in self.order if kept in self.items(name))
            raise EmitError(f"runs transformers' own {source}, kept whole", path=f"{where}.{kept.id}", hint=AS_CODE)
        super().validate()

    def ever(self, node: Node, name: str) -> bool:
        """Whether a setting of a node is other than null and 0 somewhere, as the document stands."""
        found = (visit for visit in walk(self.document) if visit.item == node)
        values = [resolve(complete(node)[name], visit.environment) for visit in found]
        return any(value not in (None, 0) for value in values)


def settled(document: Document) -> Document:
    """A document whose switches are what the config says: plain code is of one model, and has no branch for another."""
    known = {name for name, value in document.config.items() if value is None or isinstance(value, bool)}
    kinds = (kind for b in document.blocks.values() for i in b.nodes if isinstance(i, Stack) for kind in i.kinds)
    known -= {name for kind in kinds for name in kind.sizes}

    def value_of(value: Any) -> Any:
        text = expression(value).text if is_expression(value) else ""
        return document.config[text] if text in known else value

    blocks = {
        name: block.replace(
            nodes=tuple(
                item.replace(attrs=FrozenMap({n: value_of(v) for n, v in item.attrs.items()}))
                if isinstance(item, Node)
                else item
                for item in block.nodes
            )
        )
        for name, block in document.blocks.items()
    }
    made: Document = document.replace(blocks=FrozenMap(blocks))
    return made


# blocks


class PlainWriter(BlockWriter):
    """Writes one block's class, without what transformers asks for."""

    plan: PlainPlan

    @property
    def base(self) -> str:
        return "nn.Module"

    @property
    def takes_index(self) -> bool:
        plan = self.plan
        if self.name in plan.layer_blocks:  # all are made alike
            return plan.heterogeneous or bool(plan.numbered & {*plan.layer_blocks})
        return self.name in plan.inner and (plan.heterogeneous or self.name in plan.numbered)

    def indexes(self, block: str) -> bool:
        return PlainWriter(self.plan, block).takes_index

    def owner_statements(self) -> list[ast.stmt]:
        found = {"layer": "layer = config.at(layer_idx)", "general": "general = config"}
        return statements(found[self.owner]) if self.owner in found else []

    def told_statements(self) -> list[ast.stmt]:
        return []

    def add(self, graph: fx.Graph, values: dict[str, fx.Node], item: Any) -> None:
        super().add(graph, values, item)
        if isinstance(item, Stack):
            values[item.id].meta["encodes"] = True  # all its layers run

    def add_node(self, graph: fx.Graph, node: Node, take: Any) -> fx.Node:
        made = super().add_node(graph, node, take)
        if node.op == "attention":
            made.meta.update(cached=False, hands_on=False, template=self.attention_call(node))
        if node.op == MODULE:
            made.meta.update(state=False, cache="")
        return made

    def attention_call(self, node: Node) -> str:
        """The statements that attend, over names for its queries, keys and values."""
        attrs, mask, scale = complete(node), self.mask(node), self.told(node, "scale")
        dropout = f"{self.told(node, 'dropout')} if self.training else 0.0" if self.plan.ever(node, "dropout") else ""
        if needs_own(node):
            given = {"s_aux": "sinks", "bias": "bias"}
            more = "".join(f", {name}={port}" for name, port in given.items() if port in node.inputs)
            more += f", softcap={self.told(node, 'softcap')}" if attrs["softcap"] is not None else ""
            more += f", dropout={dropout}" if dropout else ""
            return f"out = attend(q, k, v, {mask}, {scale}{more})"
        more = ", is_causal=True" if mask == CAUSAL else f", attn_mask={mask}" if mask != "None" else ""
        more += f", dropout_p={dropout}" if dropout else ""
        more += f", scale={scale}"
        more += ", enable_gqa=True" if shares_heads(self, node) else ""
        return f"out = nn.functional.scaled_dot_product_attention(q, k, v{more})\nout = out.transpose(1, 2)"

    def told(self, node: Node, name: str) -> str:
        """A setting of a node where `forward` uses it."""
        return unparse(self.attribute(node, name, complete(node)[name]))

    def mask(self, node: Node) -> str:
        """Which keys each query sees: an expression, or `None` where it sees all."""
        attrs = complete(node)
        spans = [f", {name}={self.told(node, name)}" for name in ("window", "chunk") if self.plan.ever(node, name)]
        if not spans and not attrs["causal"]:
            return "None"
        return f"sees(q.shape[2], q.device{''.join(spans)})"


CAUSAL = "sees(q.shape[2], q.device)"


def needs_own(node: Node) -> bool:
    """Whether attention does what PyTorch's own function does not know."""
    attrs = complete(node)
    return attrs["softcap"] is not None or bool(node.inputs.keys() & {"sinks", "bias"})


def shares_heads(writer: BlockWriter, node: Node) -> bool:
    """Whether several queries may share a key."""
    heads = [writer.heads_behind(node.inputs.get(port, "")) for port in ("q", "k")]
    return None in heads or heads[0] != heads[1]


class PlainBackbone(PlainWriter, BackboneWriter):
    """Writes the class that holds embedding, layers and final norm."""

    def init(self) -> str:
        return PlainWriter.init(self)

    def layout(self, graph: fx.Graph) -> Layout:
        embedding, given = self.token_embedding(), self.plan.given
        bound = {name: name for name in given}
        before = [
            one
            for name in given[1:]
            for one in statements(f"if _name_ is None:\n    _name_ = torch.zeros_like({given[0]})", _name_=name)
        ]
        if embedding is not None:
            before += statements("hidden_states = held(input_ids)", held=self.held[key_of(embedding)])
            bound["inputs_embeds"] = "hidden_states"
        placed = any(node.op == "placeholder" and node.target == "position_ids" for node in graph.nodes)
        if placed or self.plan.positioned or any(getattr(i, "op", "") == "padded_positions" for i in self.order):
            before += statements("position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]")
        before += self.read_sizes(graph)
        told = [ast.keyword("position_ids", quote("position_ids"))] if self.tells_positions else []
        return Layout(_arguments(given), "Tensor", before, bound, context=told, comments=self.comments(graph))

    @property
    def tells_positions(self) -> bool:
        return bool(self.plan.positioned & {*self.plan.layer_blocks})

    def source(self) -> str:
        return PlainWriter.source(self)


class PlainHead(PlainWriter, HeadWriter):
    """Writes the whole model: from tokens to logits."""

    def init(self) -> str:
        body = PlainWriter.init(self).splitlines()
        ties = [f"    self.{_reached(tied)} = self.{_reached(source)}" for tied, source in self.ties]
        body += indent("\n".join(["if config.tie_word_embeddings:", *ties])) if ties else []
        body += indent(
            "for parameter in self.parameters():\n"
            "    if parameter.dim() > 1:\n"
            f"        nn.init.normal_(parameter, std={self.spread})"
        )
        return "\n".join(body)

    @property
    def ties(self) -> list[tuple[str, str]]:
        """Parameters that share another's tensor while the config says so; nothing but keys of the model is ever written."""
        document = self.plan.document
        known = parameter_keys(document) if "tie_word_embeddings" in document.config else {}
        return [(tied, source) for tied, source in document.ties.items() if tied in known and source in known]

    @property
    def spread(self) -> str:
        """How far apart fresh weights are."""
        return "config.initializer_range" if "initializer_range" in self.plan.document.config else "0.02"

    def layout(self, graph: fx.Graph) -> Layout:
        given = self.plan.given
        call = f"hidden_states = self._name_({', '.join(given)})"
        before = statements(call, _name_=self.held_parts[0])
        self.note_sizes(graph)
        for dim, name in enumerate(("batch", "seq")):
            if name in self.sizes_used:
                before += statements("name = hidden_states.shape[dim]", name=name, dim=ast.Constant(dim))
        return Layout(_arguments(given), "Tensor", before, {}, comments=self.comments(graph))

    def source(self) -> str:
        graph = self.graph()
        forward = print_graph(graph, self.layout(graph))
        lines = [f"class {self.plan.names.model}(nn.Module):", *indent(self.init()), "", *indent(forward)]
        if self.plan.task.generates:
            lines += ["", *indent(GENERATE)]
        return "\n".join(lines) + "\n"


GENERATE = '''\
@torch.no_grad()
def generate(self, input_ids: Tensor, count: int) -> Tensor:
    """Go on with the likeliest token, `count` times; without a cache each costs as much as all before it."""
    for _ in range(count):
        input_ids = torch.cat((input_ids, self(input_ids)[:, -1:].argmax(-1)), dim=1)
    return input_ids'''


def _arguments(given: Sequence[str]) -> ast.arguments:
    """What a model is given; all but the first it can do without."""
    first, *others = given
    lines = [f"{first}: Tensor", *(f"{name}: Tensor | None = None" for name in others)]
    (function,) = ast.parse(f"def forward(self, {', '.join(lines)}): pass").body
    assert isinstance(function, ast.FunctionDef)
    return function.args


def _reached(key: str) -> str:
    """A parameter's key as it is written behind `self.`: places in lists are indices."""
    first, *rest = key.split(".")
    return first + "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in rest)


# the file


def plain_files(plan: PlainPlan) -> dict[str, str]:
    """`model.py`, before formatting, and the config that it reads."""
    from canvas_rt.codegen.cards import title
    from canvas_rt.codegen.package import config_json

    body = model_text(plan)
    values = {**config_json(plan), **{name: plan.document.environment[name] for name in plan.document.sizes}}
    values["num_hidden_layers"] = config_json(plan)["num_hidden_layers"]
    names = [name for name, *_ in config_fields(plan)]
    used = {
        name: thaw(values[name])
        for name in (*names, "num_labels", "per_layer_config")
        if name in values and re.search(rf"\.{name}\b", body + (OF_LAYERS if plan.heterogeneous else ""))
    }
    text = HEADER.format(title=title(plan.document), model=plan.names.model) + config_text(plan, used) + "\n\n" + body
    return {"model.py": abbreviated(text), "config.json": json.dumps(used, indent=2) + "\n"}


def abbreviated(text: str) -> str:
    """A file with the short names that people use, where nothing in it has these names for itself."""
    if re.search(r"\bTensor\b", text):
        text = text.replace("import torch\n", "import torch\nfrom torch import Tensor\n", 1)
    if not re.search(r"(?<!torch\.)\bF\b", text):
        functional = "import torch\nimport torch.nn.functional as F\n"
        text = re.sub(r"\b(torch\.)?nn\.functional\b", "F", text).replace("import torch\n", functional, 1)
    return text


def model_text(plan: PlainPlan) -> str:
    """All that stands behind the config: what classes need, then the blocks, each before those that use it."""
    own = [item for name in plan.order for item in plan.items(name) if isinstance(item, Node)]
    ops = {node.op for node in own}
    small = leaves.class_texts(own, plan.classes) + rotary_texts(plan) + mixture.classes(plan)
    small += [KEPT[source] for source in dict.fromkeys(complete(node)["source"] for node in leaves.nodes(plan, MODULE))]
    text = "\n\n".join([*small, *(_writer(plan, name).source() for name in plan.order)])
    dropped = any(plan.ever(node, "dropout") for node in own if node.op == "attention" and needs_own(node))
    parts = [ACTIVATIONS.format(table=activations(plan))] if "ACT2FN[" in text else []
    parts += [CONV1D] if "Conv1D(" in text else []
    parts += [sees(text, plan.causal)] if "sees(" in text else []
    parts += [attend(plan, dropped)] if "attend(" in text else []
    parts += [PADDED_POSITIONS] if "padded_positions" in ops else []
    parts += [RELATIVE_BIAS] if "relative_bias" in ops else []
    parts += [alibi_function(plan)] if "alibi" in ops else []
    return "\n\n".join([*parts, text])


def _writer(plan: PlainPlan, name: str) -> BlockWriter:
    if name == plan.document.root:
        return PlainHead(plan, name)
    return PlainBackbone(plan, name) if name == plan.main.block else PlainWriter(plan, name)


def rotary_texts(plan: PlainPlan) -> list[str]:
    """Classes for tables of rotations, and the functions that turn values by them."""
    found: dict[str, Mapping[str, Any]] = {}
    for node in leaves.nodes(plan, "rotary_embedding"):
        found.setdefault(rotary_name(plan.names.prefix, complete(node)), complete(node))
    part = rotations.turns_a_part(plan)
    classes = [rotary_class(name, attrs, plan.rope_tables, part) for name, attrs in found.items()]
    return [*classes, *rotations.functions(plan)]


def activations(plan: PlainPlan) -> str:
    """The activations in use, by the names that configs give them."""
    names: dict[str, str] = {}
    for visit in walk(plan.document):
        item = visit.item
        if isinstance(item, Node) and item.op in ("activation", "experts", "gated_rms_norm", MODULE):
            written = complete(item)["fields"]["hidden_act"] if item.op == MODULE else complete(item)["fn"]
            name = str(resolve(written, visit.environment))
            if name not in ACTIVATION_TEXTS:
                raise EmitError(f"no plain code for the activation '{name}'", path=visit.path, hint=AS_CODE)
            names[name] = ACTIVATION_TEXTS[name]
    return ", ".join(f'"{name}": {text}' for name, text in names.items())


def config_text(plan: PlainPlan, values: Mapping[str, Any]) -> str:
    """The config's class: the fields that code reads, each as the document has it."""
    kinds = {"num_labels": "int", **{name: kind for name, kind, _ in config_fields(plan)}}
    lines = [f"    {name}: {_field(kinds.get(name, 'dict'), value)}" for name, value in values.items()]
    return CONFIG.format(fields="\n".join(lines), layers=OF_LAYERS if plan.heterogeneous else "")


def _field(kind: str, value: Any) -> str:
    """The annotation and the default of a field."""
    if isinstance(value, list | dict):
        told = unparse(_listed(value) if isinstance(value, list) else constant(value))
        return f"{type(value).__name__} = field(default_factory=lambda: {told})"
    kind = "int" if isinstance(value, int) and not isinstance(value, bool) else kind.replace("float | int", "float")
    return f"{kind} = {unparse(constant(value))}"


def _listed(values: list[Any]) -> ast.expr:
    """A list as people write a long one: what repeats once, times how often; or each run of one value."""
    for period in range(1, len(values) // 2 + 1):
        if period <= LONGEST_PERIOD and all(one == values[i % period] for i, one in enumerate(values)):
            times, rest = divmod(len(values), period)
            several = quote("part * times", part=_runs(values[:period]), times=ast.Constant(times))
            return quote("a + b", a=several, b=_runs(values[:rest])) if rest else several
    return _runs(values)


LONGEST_PERIOD = 12
"""Entries of a list beyond which it is written out, whatever repeats in it."""


def _runs(values: list[Any]) -> ast.expr:
    runs = [(value, len([*group])) for value, group in groupby(values)]
    if len(runs) > LONGEST_PERIOD or all(count == 1 for _, count in runs):
        return constant(values)
    made = [
        quote("[one] * times", one=constant(value), times=ast.Constant(count)) if count > 1 else constant([value])
        for value, count in runs
    ]
    return reduce(lambda a, b: quote("a + b", a=a, b=b), made)
