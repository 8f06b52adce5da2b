"""A document as a picture: whole, the same each time, and with nothing of a stranger's but text."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from canvas_rt.cli import main
from canvas_rt.edits import SetSize, apply
from canvas_rt.importer import open_zoo, zoo_models
from canvas_rt.ir import Document
from canvas_rt.ir.document import Block, Node
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import reachable_blocks
from canvas_rt.physics import check
from canvas_rt.pictures import picture
from canvas_rt.pictures.drawn import MOST_IN_A_BLOCK

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>\"'&]]><!-- ${x} \u202eevil\x00 {{7*7}}"
FAMILIES = {(model.family, model.document): name for name, model in zoo_models().items()}


def texts(svg: str) -> set[str]:
    return {"".join(element.itertext()) for element in ElementTree.fromstring(svg.encode()).iter(f"{SVG}text")}


def names(svg: str) -> set[str]:
    """What nodes and frames are called."""
    spans = ElementTree.fromstring(svg.encode()).iter(f"{SVG}tspan")
    return {span.text or "" for span in spans if span.get("class") == "m n"}


@pytest.mark.parametrize("name", FAMILIES.values())
def test_every_family_is_drawn_with_every_node_and_no_box_outside(name: str) -> None:
    document = open_zoo(name)
    svg = picture(document)
    wanted = {
        node.id
        for block in reachable_blocks(document)
        for node in document.blocks[block].nodes[:MOST_IN_A_BLOCK]
        if "left out" not in svg
    }
    assert wanted - names(svg) == set()
    assert document.name in texts(svg)
    root = ElementTree.fromstring(svg.encode())
    assert float(root.get("width", "")) < 2000 and len(svg) < 400_000


def test_a_picture_is_the_same_each_time_whatever_the_process_hashes() -> None:
    program = "import sys, canvas_rt; sys.stdout.write(canvas_rt.picture(canvas_rt.open_zoo('jamba-v0.1')))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
            | {"PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1] == picture(open_zoo("jamba-v0.1"))


def test_a_picture_needs_no_torch() -> None:
    program = (
        "import sys, canvas_rt; canvas_rt.picture(canvas_rt.open_zoo('llama-3.2-1b'));"
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_and_settings_from_strangers_are_text_and_nothing_else() -> None:
    document = open_zoo("llama-3.2-1b")
    hostile = Node(id="evil", op=HOSTILE[:80], attrs=FrozenMap({"text": HOSTILE}))
    root = document.blocks[document.root]
    document = document.with_block(document.root, root.replace(nodes=(*root.nodes, hostile)))
    svg = picture(document.replace(name=HOSTILE))
    tree = ElementTree.fromstring(svg.encode())
    assert {element.tag.removeprefix(SVG) for element in tree.iter()} <= {
        "svg", "title", "style", "rect", "text", "tspan", "g", "path",
    }  # fmt: skip
    safe = re.compile(r"[A-Za-z0-9 .,:;%()#=/-]*")
    assert all(safe.fullmatch(value) for element in tree.iter() for value in element.attrib.values())
    assert "\u202e" not in svg and "\x00" not in svg
    assert any("<script>" in text for text in texts(svg)), "it is shown, as text"


def test_wires_say_what_they_carry_where_shapes_are_known() -> None:
    document = open_zoo("llama-3.2-1b")
    assert "[batch, seq, hidden_size]" in texts(picture(document, check(document).shapes))
    assert "[batch, seq, hidden_size]" not in texts(picture(document))


def test_layers_that_differ_are_drawn_beside_the_others_with_their_numbers() -> None:
    document = apply(open_zoo("llama-3.2-1b"), SetSize("model.layers.8-15.self_attn", "num_key_value_heads", 4))
    found = texts(picture(document))
    assert "8-15: num_key_value_heads 4" in found
    assert "layers 0-4, 6-10, 12-16, 18-22, 24-25" in texts(picture(open_zoo("gemma-3-1b")))


def test_a_huge_document_is_cut_and_says_so() -> None:
    nodes = tuple(
        Node(id=f"n{i}", op="add", inputs=FrozenMap({"a": "x", "b": f"n{i - 1}" if i else "x"})) for i in range(1000)
    )
    block = Block(inputs=("x",), nodes=nodes, outputs=FrozenMap({"out": "n999"}))
    huge = Document(name="huge", root="Root", sizes={}, config={}, blocks={"Root": block})
    svg = picture(huge)
    assert "too large to draw whole: 920 nodes are left out" in texts(svg)
    assert len(svg) < 100_000


def test_a_broken_document_is_drawn_for_all_that() -> None:
    nodes = (
        Node(id="a", op="linear", inputs=FrozenMap({"x": "b"})),
        Node(id="b", op="no_such_op", inputs=FrozenMap({"x": "a", "y": "nothing.at_all"})),
    )
    block = Block(inputs=("x",), nodes=nodes, outputs=FrozenMap({"out": "b"}))
    broken = Document(name="broken", root="Root", sizes={"n": "=m", "m": "=n"}, config={}, blocks={"Root": block})
    assert {"a", "b"} <= names(picture(broken))


def test_a_document_shows_itself_in_a_notebook_and_in_a_line_of_text() -> None:
    document = open_zoo("llama-3.2-1b")
    assert document._repr_svg_() == picture(document)
    assert repr(document) == "Document('llama-3.2-1b', LlamaForCausalLM, 5 blocks)"


def test_the_readmes_picture_is_what_is_drawn_now() -> None:
    document = open_zoo("llama-3.1-8b")
    kept = Path(__file__).parents[2] / "docs" / "llama.svg"
    assert kept.read_text() == picture(document, check(document).shapes), (
        "run: canvas-rt show llama-3.1-8b --svg docs/llama.svg"
    )


def test_show_writes_a_picture_and_says_where_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "llama-3.2-1b", "--svg", str(tmp_path / "llama.svg")]) == 0
    assert "llama-3.2-1b → " in capsys.readouterr().out
    assert "[batch, seq, vocab_size]" in texts((tmp_path / "llama.svg").read_text())
    assert main(["show", "llama-3.2-1b", "--svg", str(tmp_path / "missing" / "llama.svg")]) == 1
    assert "cannot be written" in capsys.readouterr().err
