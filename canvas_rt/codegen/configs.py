"""The config's class, and what a file of code needs of configs."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from canvas_rt.codegen import sharding
from canvas_rt.codegen.blocks import indent
from canvas_rt.codegen.plan import Plan
from canvas_rt.codegen.syntax import constant, quote, setting, statements, unparse
from canvas_rt.ir.document import resolution_order
from canvas_rt.ir.expressions import is_expression

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


HETEROGENEOUS = """    changed.allow_global_per_layer_attribute_access = True  # it is for what stands outside the layers
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
