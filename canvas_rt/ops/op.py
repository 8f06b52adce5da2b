"""What an op is: ports, settings, parameters, and what must hold for it. Needs no torch."""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from canvas_rt.ir.frozen import FrozenMap

Shape = tuple[int, ...]
Problem = tuple[str, str]
"""What is wrong, and a way out."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One attribute of an op."""

    kind: Literal["size", "number", "flag", "choice", "table", "integer", "integers", "dtype", "text", "name"]
    """`size`: a positive integer. `number`: finite. `flag`: true or false. `choice`: one of `options`. `table`: JSON.
    `integer`: any whole number. `integers`: a list of them. `dtype`: a dtype's name, or `model` for the model's own.
    `name`: a Python identifier, or nothing."""

    summary: str
    """What it sets, in a few words."""

    default: Any = None
    """Its value where a node does not set it. None with `optional` unset: every node must set it."""

    optional: bool = False
    """Whether `null` is a value."""

    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One learned tensor of a node."""

    name: str
    """What it is called inside its node; nothing where the node is the tensor."""

    shape: Shape
    init: Literal["normal", "ones", "zeros"]
    """How the family initialises it: normal with the config's `initializer_range`, or constant."""

    role: Literal["trained", "frozen", "buffer"] = "trained"
    """Whether training changes it: a frozen one is a parameter all the same, a buffer is only kept in the checkpoint."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What an op's rules may look at: settings as numbers and as written, and the shapes that arrive."""

    attrs: Mapping[str, Any]
    shown: Mapping[str, str]
    shapes: Mapping[str, Shape]
    labels: Mapping[str, tuple[str, ...]] = FrozenMap()
    """The same shapes in the model's own sizes, where they are known: `("batch", "seq", "hidden_size")`."""

    def show(self, port: str) -> str:
        """What arrives, as people read it: `[batch, seq, hidden_size] = [1, 4096, 2048]`."""
        numbers, label = show(self.shapes[port]), self.labels.get(port)
        named = "[" + ", ".join(label) + "]" if label else numbers
        return numbers if named == numbers else f"{named} = {numbers}"

    def named(self, attr: str) -> str:
        """A setting as people read it: `hidden_size (4096)`, or just the number where it is one."""
        value = str(self.attrs[attr])
        return value if self.shown[attr] == value else f"{self.shown[attr]} ({value})"


@dataclass(frozen=True)
class Op:
    """What a node can be."""

    name: str
    title: str
    """As shown to people and used for emitted classes: `RMSNorm`."""

    group: Literal["embedding", "position", "attention", "norm", "mlp", "arithmetic", "shape", "function"]
    summary: str
    """One line for the palette."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ("out",)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    parameters: Callable[[Mapping[str, Any]], tuple[ParameterSpec, ...]] = lambda attrs: ()
    problems: Callable[[Facts], Iterator[Problem]] = lambda facts: iter(())
    """What forbids running with these settings and shapes."""

    recover: Callable[[Facts], tuple[Shape, ...]] = lambda facts: (next(iter(facts.shapes.values())),)
    """The shapes that the op would most likely give, so that one flaw does not hide those after it."""

    source: str = ""
    """The paper."""

    optional: frozenset[str] = frozenset()
    """Ports that may be left unfed."""

    whole: frozenset[str] = frozenset()
    """Ports that carry whole numbers: token ids, positions, which experts. All others carry fractions."""

    def fed(self, inputs: Container[str]) -> tuple[str, ...]:
        """The ports that a node with these inputs has: those that must be fed, and those that are."""
        return tuple(port for port in self.inputs if port not in self.optional or port in inputs)


def parameter_key(path: str, name: str) -> str:
    """The checkpoint's key of a node's learned tensor."""
    return f"{path}.{name}" if name else path


def show(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
