"""Whatever a document is called and however it was edited: what is emitted compiles, runs nothing by itself, and computes it.

A few on every commit; 3,000 hostile names and 1,000 random documents with `-m slow`.
"""

import ast
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_kinds import EDITS

from canvas_rt import Document, apply, check, emit
from canvas_rt.edits import (
    AddConfig,
    AddNode,
    AddSize,
    Bypass,
    Connect,
    DeleteLayers,
    DuplicateLayers,
    GroupNodes,
    InsertLayer,
    MoveLayers,
    RenameBlock,
    RenameNode,
    SetAttr,
    SetConfig,
    SetName,
    SetOutput,
    SetSize,
    SwapLayers,
    Ungroup,
)
from canvas_rt.errors import CanvasError
from canvas_rt.verifier.checks import Verification
from canvas_rt.verifier.runs import largest

LAYER = "model.layers"
TAINT = Path("/tmp/canvas-was-executed")

PIECES = (
    "x",
    "self",
    "class",
    "lambda",
    "__import__('os')",
    f"open({str(TAINT)!r},'w')",
    "exec('1')",
    '"',
    "'",
    '"""',
    "\n",
    "\r\n",
    "\\",
    "{x}",
    "%s",
    "#",
    ";",
    "=",
    "(",
    ")",
    "[0]",
    " ",
    "\u202e",
    "é",
    "𝐱",
    "ª",
    "\x00",
    "torch",
    "nn",
    "config",
    "forward",
    "None",
    "_",
    "0",
    "print(1)",
)


def hostile(draw: random.Random) -> str:
    return "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 5)))


PLACES: dict[str, Callable[[Document, str], Document]] = {
    "a node": lambda d, name: apply(d, RenameNode(f"{LAYER}.mlp.up_proj", name)),
    "a value": lambda d, name: apply(d, RenameNode(f"{LAYER}.mlp.gated", name)),
    "a stack": lambda d, name: apply(d, RenameNode(LAYER, name)),
    "a block": lambda d, name: apply(d, RenameBlock("LlamaMLP", name)),
    "a new block": lambda d, name: apply(d, GroupNodes(f"{LAYER}.mlp", ("act_fn", "gated"), name, "gate")),
    "the use of a block": lambda d, name: apply(d, RenameNode(f"{LAYER}.mlp", name)),
    "a size": lambda d, name: apply(
        d, AddSize(name, 80), SetAttr(f"{LAYER}.0.mlp.up_proj", "out_features", f"={name}")
    ),
    "a config value": lambda d, name: apply(d, AddConfig(name, 0.5)),
    "text in the config": lambda d, name: apply(d, AddConfig("note", name)),
    "an activation": lambda d, name: apply(d, SetConfig("hidden_act", name)),
    "the document": lambda d, name: apply(d, SetName(name)),
    "the origin": lambda d, name: parsed(d.replace(origin=d.origin.replace(source=name, architecture=name[:80]))),
    "a checkpoint's key": lambda d, name: parsed(
        d.with_block(
            "LlamaMLP",
            d.blocks["LlamaMLP"].replace(
                nodes=tuple(
                    item.replace(key=name) if item.id == "up_proj" else item for item in d.blocks["LlamaMLP"].nodes
                )
            ),
        )
    ),
}


def parsed(document: Document) -> Document:
    """A document as it would be read from a file."""
    return Document.model_validate(document.model_dump())


def try_name(document: Document, place: str, name: str) -> bool:
    """Whether a name is taken; what is emitted with it is code of one module, and holds it as text at most."""
    try:
        files = emit(PLACES[place](document, name)).files
    except (CanvasError, ValueError):
        return False
    tree = ast.parse(files["model.py"])
    allowed = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign, ast.Expr, ast.If)
    assert all(isinstance(node, allowed) for node in tree.body)
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "exec", "eval", "print", "__import__", "compile"}
    compile(tree, "model.py", "exec")
    return True


def names_are_tried(document: Document, count: int) -> None:
    draw = random.Random(0)
    TAINT.unlink(missing_ok=True)
    taken = sum(try_name(document, draw.choice(list(PLACES)), hostile(draw)) for _ in range(count))
    assert not TAINT.exists()
    assert 0 < taken < count


def test_hostile_names_are_refused_or_stay_text(small_llama: Document) -> None:
    names_are_tried(small_llama, 60)


@pytest.mark.slow
def test_thousands_of_hostile_names_are_refused_or_stay_text(small_llama: Document) -> None:
    names_are_tried(small_llama, 3000)


# random documents


def random_edit(draw: random.Random, document: Document) -> tuple[Any, ...]:
    """Some edit of a Llama, which need not be possible any more."""
    layers = int(document.environment["num_hidden_layers"])
    layer = draw.randrange(layers)
    where = draw.choice([LAYER, f"{LAYER}.{layer}", f"{LAYER}.{layer}-{draw.randrange(layer, layers)}"])
    name = draw.choice(["one", "two", "three", "norm", "hidden", "out", "x", "scale", "mask", "cos"])
    norm = {"size": "=hidden_size", "eps": "=rms_norm_eps"}
    return draw.choice(
        [
            lambda: draw.choice(list(EDITS.values())),
            lambda: (SetSize("", "intermediate_size", draw.choice([16, 48, 96])),),
            lambda: (SetSize(f"{where}.mlp", "intermediate_size", draw.choice([16, 48, 96])),),
            lambda: (SetSize(f"{where}.self_attn", "num_key_value_heads", draw.choice([1, 2, 3, 6])),),
            lambda: (SetAttr(f"{where}.self_attn.attention", "window", draw.choice([None, 3, 9])),),
            lambda: (SetAttr(f"{where}.mlp.act_fn", "fn", draw.choice(["relu", "gelu", "tanh"])),),
            lambda: (SetConfig("rms_norm_eps", draw.choice([1e-5, 1e-3])),),
            lambda: (RenameNode(f"{where}.mlp.{draw.choice(['up_proj', 'gated', 'act_fn'])}", name),),
            lambda: (RenameNode(f"{where}.{draw.choice(['mlp', 'self_attn', 'self_attn_residual'])}", name),),
            lambda: (
                AddNode(
                    f"{where}.mlp", {"id": name, "op": "scale", "attrs": {"factor": 0.5}, "inputs": {"x": "up_proj"}}
                ),
                Connect(f"{where}.mlp.gated", "b", name),
            ),
            lambda: (
                AddNode(where, {"id": name, "op": "rms_norm", "attrs": norm, "inputs": {"x": "self_attn"}}),
                Connect(f"{where}.self_attn_residual", "b", name),
            ),
            lambda: (
                AddNode(where, {"id": name, "op": "add", "inputs": {"a": "mlp", "b": "post_attention_layernorm"}}),
                Connect(f"{where}.mlp_residual", "b", name),
            ),
            lambda: (Connect(f"{where}.post_attention_layernorm", "x", "hidden_states"),),
            lambda: (Bypass(f"{where}.{draw.choice(['input_layernorm', 'post_attention_layernorm'])}", "x"),),
            lambda: (Bypass(f"{where}.mlp_residual", "a"),),
            lambda: (DeleteLayers(f"{LAYER}.{layer}"),),
            lambda: (DuplicateLayers(f"{LAYER}.{layer}"),),
            lambda: (InsertLayer(LAYER, layer),),
            lambda: (MoveLayers(f"{LAYER}.{layer}", draw.randrange(layers)),),
            lambda: (SwapLayers(LAYER, 0, layer),),
            lambda: (GroupNodes(f"{where}.mlp", ("act_fn", "gated"), name.capitalize(), f"{name}_group"),),
            lambda: (Ungroup(f"{where}.{draw.choice(['mlp', 'self_attn'])}"),),
            lambda: (
                AddNode("", {"id": name, "op": "scale", "attrs": {"factor": 2.0}, "inputs": {"x": "lm_head"}}),
                SetOutput("", "logits", name),
            ),
        ]
    )()


def random_documents(base: Document, count: int) -> Iterator[Document]:
    """Valid documents, each after some random edits; those that cannot be made are left out, and others drawn."""
    draw = random.Random(0)
    while count:
        document = base
        for _ in range(draw.randint(1, 6)):
            try:
                document = apply(document, *random_edit(draw, document))
            except CanvasError:
                continue
        if document is not base and check(document).ok:
            count -= 1
            yield document


def documents_compute_what_they_say(base: Document, count: int, folder: Path) -> None:
    refused = 0
    for index, document in enumerate(random_documents(base, count)):
        target = folder / str(index)
        try:
            emit(document).write(target)
        except CanvasError:
            refused += 1  # a graph that no model of transformers can be, with its reason
            continue
        verification = Verification(target)
        with torch.no_grad():
            ours = verification.forward(verification.emitted(verification.small))
        theirs = verification.interpret(verification.small).logits
        apart = largest(ours, theirs) / max(1.0, float(theirs.abs().max()))
        assert apart <= 1e-5, (index, apart, document.log)
    assert refused <= count // 5


def test_random_documents_compute_what_they_say(small_llama: Document, tmp_path: Path) -> None:
    documents_compute_what_they_say(small_llama, 12, tmp_path)


@pytest.mark.slow
def test_a_thousand_random_documents_compute_what_they_say(small_llama: Document, tmp_path: Path) -> None:
    documents_compute_what_they_say(small_llama, 1000, tmp_path)
