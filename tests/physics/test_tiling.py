"""One trace of each layer kind, put together, allocates exactly what a run of every layer allocates."""

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch

from canvas_rt.edits import AddNode, Connect, apply
from canvas_rt.ir.document import Block, Document, LayerKind, Node, Run, Stack, layer_environment
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.files import load
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.physics import measure
from canvas_rt.physics.anatomy import head_path
from canvas_rt.physics.keys import below, relevant
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.tracer import WHOLE_LAYERS, Tracer
from canvas_rt.physics.tracing import run_layer, run_root
from canvas_rt.physics.whole import events, model, peak, running

ZOO = Path(__file__).parents[2] / "model_zoo"
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}


def document(family: str, **sizes: object) -> Document:
    loaded = load(ZOO / family / "document.canvas.json")
    return loaded.replace(sizes=loaded.sizes.with_items({**SMALL, **sizes}))


class EveryLayer(Tracer):
    """Runs the layers of stacks one by one, under the same tape."""

    def stack(self, stack: Stack, environment: Mapping[str, Any], inputs: Mapping[str, Any], path: str) -> Any:
        values = dict(inputs)
        inputs.clear()  # type: ignore[attr-defined]
        port = self.document.blocks[stack.kinds[0].block].inputs[0]
        carried = values.pop(port)
        self.tape.owner = path
        self._masks_before(stack, environment, carried.shape[1])
        if carried.requires_grad:
            carried.register_hook(lambda gradient: self._let_go())
        for layer, index in enumerate(stack.kind_indices(resolve(stack.repeat, environment))):
            kind = stack.kinds[index]
            scope = layer_environment(environment, kind)
            given = {port: carried, **values}
            outputs = dict(run_layer(self, kind.block, scope, given, f"{path}.{layer}."))
            given.clear()
            carried = outputs.pop(next(iter(outputs)))
        if self.setup.recompute not in WHOLE_LAYERS:
            self._let_go()
        return carried

    def _let_go(self) -> None:
        """Of what checkpoints of layers hold until the first of them has run again."""
        self.masks.clear()
        self.positions.clear()


def untiled(whole: Document, setup: Setup) -> tuple[int, int]:
    """Peak and final bytes of a run of every layer."""
    blocks = below(whole.blocks, whole.root)
    tracer = EveryLayer(blocks, whole.root, relevant(blocks, whole.root, whole.environment), setup, whole.tied)
    tracer.head = head_path(blocks, whole.root)
    with torch.set_grad_enabled(setup.train):
        run_root(tracer, blocks, whole.root)
    cached = sum(nbytes for nbytes, _ in tracer.cached)
    sums = list(accumulate((nbytes for nbytes, _ in tracer.tape.events), initial=cached))
    return max(sums), sums[-1]


def tiled(whole: Document, setup: Setup) -> tuple[int, int]:
    sums = running(model(whole, setup))
    return sums.peak, sums.now


@pytest.mark.parametrize("vocab", [50, 50000], ids=["peak in the layers", "peak at the loss"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
@pytest.mark.parametrize("layers", [4, 12])
def test_tiling_agrees_to_the_byte_with_a_run_of_every_layer(layers: int, mode: Any, dtype: str, vocab: int) -> None:
    whole = document("llama", num_hidden_layers=layers, vocab_size=vocab)
    setup = Setup(mode, 2, 100, dtype)
    assert tiled(whole, setup) == untiled(whole, setup)


@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_windows_and_layers_of_several_kinds_agree_too(mode: Any) -> None:
    whole = document("mistral", num_hidden_layers=7, sliding_window=60)
    block = whole.blocks["MistralModel"]
    stack = block.node("layers")
    assert isinstance(stack, Stack)
    wide = LayerKind(block=stack.kinds[0].block, sizes=FrozenMap({"intermediate_size": 4000, "num_key_value_heads": 4}))
    varied = stack.replace(
        kinds=(*stack.kinds, wide), runs=(Run(start=0, stop=1, kind=1), Run(start=4, stop=6, kind=1))
    )
    nodes = tuple(varied if node.id == "layers" else node for node in block.nodes)
    whole = whole.with_block("MistralModel", block.replace(nodes=nodes))
    setup = Setup(mode, 1, 100, "bf16")
    assert tiled(whole, setup) == untiled(whole, setup)


SETUPS = [
    Setup("train", 2, 100, "mixed"),
    Setup("train", 2, 100, "bf16", recompute=("full",)),
    Setup("train", 2, 100, "mixed", recompute=("full",)),
    Setup("train", 2, 100, "bf16", recompute=("selective",)),
    Setup("train", 2, 100, "fp32", recompute=("mlp", "rms_norm")),
    Setup("train", 2, 100, "bf16", attention="eager", recompute=("full",)),
    Setup("train", 2, 100, "bf16", attention="math"),
    Setup("train", 2, 100, "bf16", attention="flex"),
    Setup("train", 2, 96, "bf16", loss="chunked", loss_chunks=4),
    Setup("train", 2, 100, "mixed", loss="fused"),
    Setup("train", 2, 96, "fp8"),
    Setup("train", 2, 100, "bf16", accumulating=True),
    Setup("train", 2, 100, "bf16", device="cpu"),
    Setup("prefill", 2, 100, "bf16", attention="eager"),
    Setup("prefill", 2, 100, "bf16", cache="int4"),
    Setup("decode", 2, 100, "bf16", cache="fp8", page=16),
    Setup("decode", 2, 100, "bf16", attention="eager", device="cpu"),
]


def told(setup: Setup) -> str:
    return " ".join(
        str(v) for v in (setup.mode, setup.dtype, setup.attention, *setup.recompute, setup.loss, setup.cache)
    )


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("setup", SETUPS, ids=told)
def test_so_it_does_however_the_model_is_run(setup: Setup, family: str) -> None:
    sizes = {"sliding_window": 60} if family == "mistral" else {}
    whole = document(family, num_hidden_layers=5, vocab_size=3000, **sizes)
    assert tiled(whole, setup) == untiled(whole, setup)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [(), ("full",)])
@pytest.mark.parametrize("layers", [4, 32, 80, 126])
def test_so_it_does_at_any_depth(layers: int, recompute: tuple[str, ...]) -> None:
    whole = document("llama", num_hidden_layers=layers, vocab_size=3000)
    setup = Setup("train", 1, 64, "bf16", recompute=recompute)
    assert tiled(whole, setup) == untiled(whole, setup)


def layer_block(kind: str) -> Block:
    """Layers whose value lives unusually: passed on as it is, kept by what comes after, or kept by what made it."""
    norm = Node(
        id="norm",
        op="layer_norm",
        attrs=FrozenMap({"size": "=hidden_size"}),
        inputs=FrozenMap({"x": "hidden_states"}),
    )
    act = Node(id="act", op="activation", attrs=FrozenMap({"fn": "sigmoid"}), inputs=FrozenMap({"x": "norm"}))
    nodes, out = {
        "same": ((), "hidden_states"),
        "keeps input": ((norm,), "norm"),
        "keeps output": ((norm, act), "act"),
    }[kind]
    return Block(inputs=("hidden_states", "cos", "sin"), nodes=nodes, outputs=FrozenMap({"out": out}))


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", ["same", "keeps input", "keeps output"])
def test_values_that_layers_share_die_with_their_last_holder(kind: str, dtype: str) -> None:
    whole = document("llama", num_hidden_layers=5)
    whole = whole.with_block("Odd", layer_block(kind))
    block = whole.blocks["LlamaModel"]
    stack = block.node("layers")
    assert isinstance(stack, Stack)
    odd = stack.replace(
        kinds=(*stack.kinds, LayerKind(block="Odd")), runs=(Run(start=1, stop=3, kind=1), Run(start=4, stop=5, kind=1))
    )
    nodes = tuple(odd if node.id == "layers" else node for node in block.nodes)
    whole = whole.with_block("LlamaModel", block.replace(nodes=nodes))
    for setup in (Setup("train", 2, 64, dtype), Setup("prefill", 2, 64, dtype)):
        assert tiled(whole, setup) == untiled(whole, setup)


def test_a_stack_within_a_layer_is_tiled_too() -> None:
    whole = document("llama", num_hidden_layers=3)
    inner = Stack(
        id="parts",
        repeat=2,
        kinds=(LayerKind(block="LlamaDecoderLayer"),),
        inputs=FrozenMap({"hidden_states": "hidden_states", "cos": "cos", "sin": "sin"}),
    )
    outer = Block(inputs=("hidden_states", "cos", "sin"), nodes=(inner,), outputs=FrozenMap({"out": "parts"}))
    block = whole.blocks["LlamaModel"]
    stack = block.node("layers")
    assert isinstance(stack, Stack)
    nodes = tuple(
        stack.replace(kinds=(LayerKind(block="Pair"),)) if node.id == "layers" else node for node in block.nodes
    )
    whole = whole.with_block("Pair", outer).with_block("LlamaModel", block.replace(nodes=nodes))
    for setup in (Setup("train", 1, 64, "bf16"), Setup("decode", 1, 64, "bf16")):
        assert tiled(whole, setup) == untiled(whole, setup)


def test_the_list_of_events_and_the_running_sum_tell_the_same_peak() -> None:
    traced = model(document("llama", num_hidden_layers=9), Setup("train", 1, 128, "bf16"))
    listed = events(traced)
    live: dict[int, int] = {}
    for nbytes, number in listed:
        if nbytes > 0:
            assert number not in live
            live[number] = nbytes
        else:
            assert live.pop(number) == -nbytes
    assert max(accumulate(nbytes for nbytes, _ in listed)) == peak(traced)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_gradients_of_what_goes_to_every_layer_are_summed_as_they_come(layers: int) -> None:
    """A norm on the cosines: each layer sends a gradient back to it."""
    norm = Node(id="turned", op="rms_norm", attrs=FrozenMap(size="=head_dim"), inputs=FrozenMap(x="rotary_emb.cos"))
    whole = apply(
        document("llama", num_hidden_layers=layers),
        AddNode("model", norm, before="layers"),
        Connect("model.layers", "cos", "turned"),
    )
    setup = Setup("train", 2, 16, "bf16")
    assert tiled(whole, setup) == untiled(whole, setup)
    assert measure(whole, batch=2, sequence=16).memory.peak_reserved > 0
