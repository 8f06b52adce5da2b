"""Look ops up by name, and complete and check the settings of nodes. Needs no torch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import LAYER, Node, identifier
from canvas_rt.ir.expressions import display, names_in
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.choices import ALIASES, DTYPES, INFINITIES
from canvas_rt.ops.functions import function_op, is_function
from canvas_rt.ops.op import Op, ParameterSpec, Problem, Setting
from canvas_rt.ops.semantic import SEMANTIC


class _Ops(Mapping[str, Op]):
    """Every op: those with a meaning of their own, and any plain function of torch by its name."""

    def __getitem__(self, name: str) -> Op:
        op = SEMANTIC.get(name) or function_op(name)
        if op is None:
            raise KeyError(name)
        return op

    def __contains__(self, name: object) -> bool:
        return name in SEMANTIC or (isinstance(name, str) and function_op(name) is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(SEMANTIC)

    def __len__(self) -> int:
        return len(SEMANTIC)


OPS: Mapping[str, Op] = _Ops()
"""An op by its name. Walking over it gives those with a meaning of their own."""


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    name: FrozenMap(
        {s: setting.default for s, setting in op.settings.items() if setting.optional or setting.default is not None}
    )
    for name, op in SEMANTIC.items()
}
"""By op the settings that a node may leave out, and what they are then."""


def op_named(name: str, path: str = "") -> Op:
    """The op of that name, or a `CanvasError` that offers the nearest."""
    if name not in OPS:
        raise CanvasError(f"there is no op '{name}'", path=path, hint=suggest(name, OPS))
    return OPS[name]


def complete(node: Node) -> Mapping[str, Any]:
    """A node's settings as written, with the op's defaults for those that it leaves out."""
    settings = op_named(node.op, node.id).settings
    return {**{name: setting.default for name, setting in settings.items()}, **node.attrs}


def shown(node: Node) -> Mapping[str, str]:
    return {name: display(value) for name, value in complete(node).items()}


BY_LAYER = ("torch.select", "index")
"""The one setting that may go by the number of the layer: sizes and costs are alike in all layers of a kind."""


def numbered_setting(node: Node) -> str | None:
    """A setting that goes by the number of the layer, and may not; None where there is none."""
    return next((n for n, v in node.attrs.items() if LAYER in names_in(v) and (node.op, n) != BY_LAYER), None)


def parameter_shapes(node: Node, attrs: Mapping[str, Any]) -> tuple[ParameterSpec, ...]:
    """A node's learned tensors, for settings resolved to numbers."""
    return op_named(node.op, node.id).parameters(attrs)


def is_name(value: Any) -> bool:
    """Whether a value may be an attribute of a module, or is empty."""
    try:
        return value == "" or bool(identifier(value))
    except (ValueError, TypeError, AttributeError):
        return False


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_HOLDS: Mapping[str, tuple[Callable[[Setting, Any], bool], str]] = {
    "size": (lambda _, value: _is_integer(value) and value >= 1, "must be a whole number of at least 1"),
    "number": (lambda _, value: isinstance(value, int | float) and not isinstance(value, bool), "must be a number"),
    "flag": (lambda _, value: isinstance(value, bool), "must be true or false"),
    "choice": (
        lambda setting, value: value in setting.options or ALIASES.get(value) in setting.options,
        "is not known",
    ),
    "table": (lambda _, value: isinstance(value, Mapping), "must be a table"),
    "integer": (lambda _, value: _is_integer(value), "must be a whole number"),
    "integers": (
        lambda _, value: isinstance(value, tuple) and all(map(_is_integer, value)),
        "must be a list of whole numbers",
    ),
    "dtype": (lambda _, value: value in DTYPES, "is no dtype"),
    "text": (lambda _, value: isinstance(value, str), "must be text"),
    "name": (lambda _, value: is_name(value), "must be a name"),
}
"""By the kind of a setting, what a value must be, and what is said of one that is not."""


def setting_problems(op: Op, attrs: Mapping[str, Any], written: Mapping[str, str]) -> Iterator[Problem]:
    """What is wrong with a node's settings, taken one by one."""
    for name in attrs.keys() - op.settings.keys():
        yield f"{op.title} has no setting '{name}'", suggest(name, op.settings) if op.settings else "It has none."
    for name, setting in op.settings.items():
        value = attrs.get(name)
        if value is None:
            if not setting.optional:
                yield f"{name} is not set", f"Set {name}: {setting.summary}."
            continue
        if setting.kind == "number" and value in INFINITIES and is_function(op.name):
            continue
        holds, words = _HOLDS[setting.kind]
        if not holds(setting, value):
            text = written.get(name, str(value))
            known = {"choice": setting.options, "dtype": DTYPES}.get(setting.kind)
            hint = f"It is: {setting.summary}." if known is None else suggest(str(value), known)
            yield f"{name} = {text}{_equals(text, value)} {words}", hint


def _equals(text: str, value: Any) -> str:
    return "" if text == display(value) else f" ({display(value)})"
