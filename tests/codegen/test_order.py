"""What is written computes in the order of the graph: sums of gradients follow it, to the last bit."""

import ast
import operator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from canvas_rt.codegen.printer import Layout, print_graph

Step = tuple[str, tuple[int, ...]]
"""A module's name, or `+`, and which values it takes."""


def graph_of(steps: list[Step]) -> fx.Graph:
    graph = fx.Graph()
    values = [graph.placeholder("x")]
    for name, places in steps:
        taken = tuple(values[place % len(values)] for place in places)
        made = graph.call_function(operator.add, taken) if name == "+" else graph.call_module(name, taken[:1])
        values.append(made)
    graph.output(values[-1])
    for node in reversed(graph.nodes):
        if node.op.startswith("call") and not node.users:
            graph.erase_node(node)
    return graph


def source_of(graph: fx.Graph) -> str:
    signature = ast.arguments(
        posonlyargs=[], args=[ast.arg("self"), ast.arg("x")], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    return print_graph(graph, Layout(signature, "None"))


@dataclass
class Value:
    """What says what was computed, and notes when."""

    text: str
    log: list[str]

    def __add__(self, other: "Value") -> "Value":
        return self.made(f"({self.text} + {other.text})")

    def made(self, text: str) -> "Value":
        self.log.append(text)
        return Value(text, self.log)


@dataclass
class Modules:
    """Stands for a module whose parts note when they run."""

    log: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return lambda value: value.made(f"{name}({value.text})")


def run(source: str) -> list[str]:
    """What the text computes, in order."""
    scope: dict[str, Any] = {}
    exec(source, scope)
    log: list[str] = []
    scope["forward"](Modules(), Value("x", log))
    return log


def expected(graph: fx.Graph) -> list[str]:
    texts: dict[fx.Node, str] = {}
    for node in graph.nodes:
        taken = [texts[arg] for arg in node.args if isinstance(arg, fx.Node)]
        if node.op == "placeholder":
            texts[node] = "x"
        elif node.op == "call_module":
            texts[node] = f"{node.target}({taken[0]})"
        elif node.op == "call_function":
            texts[node] = f"({taken[0]} + {taken[1]})"
    return [text for node, text in texts.items() if node.op != "placeholder"]


def body(*steps: Step) -> str:
    return "\n".join(line.strip() for line in source_of(graph_of(list(steps))).splitlines()[1:])


def test_what_is_used_once_is_written_where_it_is_used() -> None:
    assert body(("a", (0,)), ("b", (1,)), ("+", (1, 2))) == "a = self.a(x)\nreturn a + self.b(a)"
    assert body(("a", (0,)), ("b", (0,)), ("+", (1, 2))) == "return self.a(x) + self.b(x)"


def test_what_came_first_gets_a_line_where_it_would_be_written_later() -> None:
    assert body(("a", (0,)), ("b", (0,)), ("+", (2, 1))) == "a = self.a(x)\nreturn self.b(x) + a"
    assert body(("a", (0,)), ("b", (0,)), ("c", (2,)), ("+", (3, 1))) == "a = self.a(x)\nreturn self.c(self.b(x)) + a"


steps = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "+"]), st.tuples(*[st.integers(0, 12)] * 2)), max_size=12)


@given(steps)
def test_the_order_of_any_graph_is_kept(drawn: list[Step]) -> None:
    graph = graph_of(drawn)
    assert run(source_of(graph)) == expected(graph), source_of(graph)
