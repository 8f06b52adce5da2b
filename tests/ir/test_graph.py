"""Walking a document: execution follows the wires, paths lead where they say, and every layer is visited."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Block, Document, LayerKind, Node, Run, Stack, runs_of
from canvas_rt.ir.files import load
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import (
    PathError,
    execution_order,
    find,
    head,
    live,
    reachable_blocks,
    recursive_blocks,
    running_order,
    walk,
)

LLAMA = load(Path(__file__).parents[2] / "model_zoo" / "llama" / "document.canvas.json")

Wires = dict[int, list[int]]


def block_of(wires: Wires) -> Block:
    """Nodes n0, n1, … each of which reads those it is wired to; the last is the output."""
    nodes = tuple(
        Node(id=f"n{i}", op="add", inputs=FrozenMap({f"p{k}": f"n{j}" for k, j in enumerate(sources)}))
        for i, sources in wires.items()
    )
    return Block(inputs=("x",), nodes=nodes, outputs=FrozenMap({"out": f"n{len(wires) - 1}"}))


graphs = st.integers(1, 8).flatmap(
    lambda count: st.fixed_dictionaries(
        {i: st.lists(st.integers(0, count - 1), max_size=3, unique=True) for i in range(count)}
    )
)


def in_a_cycle(wires: Wires, start: int) -> bool:
    seen: set[int] = set()
    frontier = list(wires[start])
    while frontier:
        at = frontier.pop()
        if at == start:
            return True
        if at not in seen:
            seen.add(at)
            frontier += wires[at]
    return False


@given(graphs)
def test_every_node_comes_after_what_feeds_it(wires: Wires) -> None:
    ordered, cycle = execution_order(block_of(wires))
    done: set[str] = set()
    for item in ordered:
        assert {head(ref) for ref in item.inputs.values()} <= done
        done.add(item.id)
    assert set(cycle) == {f"n{i}" for i in wires if in_a_cycle(wires, i)}
    assert done.isdisjoint(cycle)


@given(graphs)
def test_only_what_the_output_depends_on_runs(wires: Wires) -> None:
    block = block_of(wires)
    needed = live(block)
    assert {item.id for item in running_order(block)[0]} <= needed
    assert f"n{len(wires) - 1}" in needed


def test_reading_order_is_kept_where_no_wire_forbids_it() -> None:
    ordered, cycle = execution_order(block_of({0: [2], 1: [], 2: [], 3: [0, 1]}))
    assert ([item.id for item in ordered], cycle) == (["n1", "n2", "n0", "n3"], ())


@pytest.mark.parametrize(
    ("path", "block", "item", "layers"),
    [
        ("", "LlamaForCausalLM", None, None),
        ("lm_head", "LlamaForCausalLM", "lm_head", None),
        ("model.layers", "LlamaModel", "layers", range(32)),
        ("model.layers.3", "LlamaModel", "layers", range(3, 4)),
        ("model.layers.8-15.self_attn.q_proj", "LlamaAttention", "q_proj", range(8, 16)),
        ("model.layers.mlp", "LlamaDecoderLayer", "mlp", range(32)),
    ],
)
def test_a_path_leads_to_its_item(path: str, block: str, item: str | None, layers: range | None) -> None:
    place = find(LLAMA, path)
    assert (place.block, place.item.id if place.item else None, place.layers) == (block, item, layers)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("modle", "there is no 'modle' in LlamaForCausalLM\nDid you mean model"),
        ("model.layers.32", "layers 32 do not exist: model.layers has 32 layers, 0 to 31"),
        ("model.layers.5-2", "layers 5-2 do not exist"),
        ("model.layers.0.self_attn.q_prj", "there is no 'q_prj' in model.layers.0.self_attn\nDid you mean q_proj"),
        ("model.layers.0-9999999", "there is no '0-9999999' in model.layers"),
        ("..", "there is no '' in LlamaForCausalLM"),
        ("lm_head.weight.x", "there is no 'weight' in"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(path: str, message: str) -> None:
    with pytest.raises(PathError) as caught:
        find(LLAMA, path)
    assert message in str(caught.value)


def test_every_item_of_every_layer_is_visited() -> None:
    stack = find(LLAMA, "model.layers").item
    assert isinstance(stack, Stack)
    kinds = (
        LayerKind(block="LlamaDecoderLayer"),
        LayerKind(block="LlamaDecoderLayer", sizes=FrozenMap({"head_dim": 64})),
    )
    mixed = stack.replace(kinds=kinds, runs=(Run(start=8, stop=16, kind=1),))
    block = LLAMA.blocks["LlamaModel"]
    nodes = tuple(mixed if node.id == "layers" else node for node in block.nodes)
    document: Document = LLAMA.with_block("LlamaModel", block.replace(nodes=nodes))
    seen = {
        visit.path: (visit.times, visit.environment["head_dim"])
        for visit in walk(document)
        if visit.item.id == "q_proj"
    }
    assert seen == {
        "model.layers.0-7.self_attn.q_proj": (8, 128),
        "model.layers.8-15.self_attn.q_proj": (8, 64),
        "model.layers.16-31.self_attn.q_proj": (16, 128),
    }
    assert {visit.path for visit in walk(LLAMA)} >= {"model", "lm_head", "model.layers", "model.layers.0-31.mlp.gated"}


@given(st.lists(st.integers(0, 2), max_size=20))
def test_runs_say_the_same_as_kinds_layer_by_layer(kinds: list[int]) -> None:
    stack = Stack(
        id="layers",
        repeat=len(kinds),
        kinds=(LayerKind(block="A"),) * 3,
        runs=runs_of(tuple(kinds)),
        inputs=FrozenMap(),
    )
    assert stack.kind_indices(len(kinds)) == tuple(kinds)


@pytest.mark.parametrize("count", [-1, 4097, 10**12, 1.5, True, "3"])
def test_a_stack_has_no_senseless_number_of_layers(count: int) -> None:
    stack = Stack(id="layers", repeat=1, kinds=(LayerKind(block="A"),))
    with pytest.raises(CanvasError, match="is no number of layers"):
        stack.kind_indices(count)


def test_blocks_are_defined_before_they_are_used() -> None:
    assert reachable_blocks(LLAMA) == (
        "LlamaAttention",
        "LlamaMLP",
        "LlamaDecoderLayer",
        "LlamaModel",
        "LlamaForCausalLM",
    )
    assert recursive_blocks(LLAMA) == ()
