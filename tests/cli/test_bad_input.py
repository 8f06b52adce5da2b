"""Bad input ends in a clear error and exit code 1 or 2, at once, with nothing written."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VERBS = {
    "show": ("show",),
    "import": ("import", "-o", "o.canvas.json"),
    "edit": ("edit", "-o", "o.canvas.json", "--set", "hidden_act=relu"),
    "check": ("check",),
    "measure": ("measure",),
    "emit": ("emit", "-o", "out"),
    "verify": ("verify",),
    "diff": ("diff", "d.canvas.json"),
}
"""How each verb is called, but for its source."""


def fifo(path: str) -> None:
    os.mkfifo(path)


def loop(path: str) -> None:
    os.symlink(path, path)


def dangling(path: str) -> None:
    os.symlink("nothing", path)


def sparse(path: str) -> None:
    with open(path, "wb") as stream:
        stream.truncate(100 * 2**20)


def folder(path: str) -> None:
    os.mkdir(path)


def holding(data: bytes | str) -> Callable[[str], None]:
    def write(path: str) -> None:
        Path(path).write_bytes(data if isinstance(data, bytes) else data.encode())

    return write


def nothing(path: str) -> None:
    """The file does not exist."""


LLAMA = '{"model_type": "llama", '
SOURCES: dict[str, tuple[str, Callable[[str], None], str]] = {
    "no file": ("nothing.json", nothing, "nothing.json: there is no such file, folder or zoo model"),
    "no name": ("", nothing, "there is no such file, folder or zoo model"),
    "a mistyped name": ("llama-3.1-8bb", nothing, "Did you mean llama-3.1-8b"),
    "a hub id offline": (
        "some/model",
        nothing,
        "some/model: is no file here, and the hub, where it may be a model, cannot be reached",
    ),
    "no hub id": ("some one/model", nothing, "neither a file here nor a model on the hub"),
    "a path too long": ("x" * 5000, nothing, "there is no such file, folder or zoo model"),
    "a null byte": ("a\0b", nothing, "a\\x00b: there is no such file"),
    "a control character": ("\x1b[2J", nothing, "\\x1b[2J: there is no such file"),
    "a name that is no text": ("\udcff", nothing, "\\udcff: there is no such file"),
    "a file as a folder": ("d.canvas.json/x/y", nothing, "there is no such file"),
    "an empty folder": ("empty", folder, "canvas-rt: empty: "),
    "a pipe": ("pipe.json", fifo, "pipe.json: is not a regular file"),
    "a device": ("/dev/zero", nothing, "/dev/zero: is not a regular file"),
    "a link to itself": ("loop", loop, "loop: is a link that leads nowhere"),
    "a link to nothing": ("dangling", dangling, "dangling: is a link that leads nowhere"),
    "100 MB": ("sparse.json", sparse, "sparse.json: is larger than 16 MiB"),
    "an empty file": ("f.json", holding(""), "f.json: is empty"),
    "a binary file": ("f.json", holding(b"\x80\x02}q\x00"), "f.json: is not text in UTF-8 (byte 0)"),
    "text": ("f.json", holding("hello"), "f.json: is not JSON: line 1, column 1"),
    "half a file": ("f.json", holding(LLAMA + '"hidden'), "f.json: is not JSON: line 1, column 25"),
    "a list": ("f.json", holding("[1]"), "f.json: holds a list, not an object of fields"),
    "a number": ("f.json", holding("5"), "f.json: holds a number, not an object of fields"),
    "NaN": ("f.json", holding(LLAMA + '"rms_norm_eps": NaN}'), "f.json: rms_norm_eps: is NaN"),
    "a key twice": ("f.json", holding(LLAMA + '"a": 1, "a": 2}'), "f.json: a: is given twice in one object"),
    "a deep file": ("f.json", holding("[" * 10**5), "f.json: is nested too deeply"),
    "no model type": ("f.json", holding("{}"), "f.json: model_type: is missing"),
    "an unknown model type": (
        "f.json",
        holding('{"model_type": "lamma"}'),
        'f.json: model_type: model type "lamma" cannot',
    ),
    "a missing size": ("f.json", holding(LLAMA + '"a": 1}'), "f.json: vocab_size: is missing"),
    "remote code": (
        "f.json",
        holding(LLAMA + '"auto_map": {"AutoConfig": "a.B"}}'),
        "f.json: auto_map: is not accepted",
    ),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("name", "make", "message"), SOURCES.values(), ids=SOURCES)
def test_a_bad_source_is_told(run: Any, verb: str, name: str, make: Callable[[str], None], message: str) -> None:
    make(name)
    told = run(VERBS[verb][0], name, *VERBS[verb][1:])
    assert (told.code, told.out, told.made) == (1, "", frozenset())
    assert message in told.err
    assert told.err.startswith("canvas-rt: ") and len(told.err) < 800


DOCUMENTS = {
    "no document": ('{"model_type": "llama"}', "f.canvas.json: is not a Canvas document"),
    "another version": (
        '{"schema_version": 2, "blocks": {}}',
        "f.canvas.json: has schema version 2; this Canvas reads 1",
    ),
    "half a document": ('{"schema_version": 1, "blocks": {}}', "root: Field required"),
    "an unknown field": ('{"schema_version": 1, "blocks": {}, "x": 1}', "x: Extra inputs are not permitted"),
}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "import"])
@pytest.mark.parametrize(("text", "message"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_bad_document_is_told(run: Any, verb: str, text: str, message: str) -> None:
    Path("f.canvas.json").write_text(text)
    told = run(VERBS[verb][0], "f.canvas.json", *VERBS[verb][1:])
    assert (told.code, told.out, told.made) == (1, "", frozenset())
    assert message in told.err


def test_a_document_needs_no_import(run: Any) -> None:
    told = run("import", "d.canvas.json", "-o", "o.canvas.json")
    assert (told.code, told.made) == (1, frozenset())
    assert "d.canvas.json: is a document already" in told.err


@pytest.mark.parametrize("verb", VERBS)
def test_machines_get_errors_as_json(run: Any, verb: str) -> None:
    told = run(VERBS[verb][0], "nothing.json", *VERBS[verb][1:], "--json")
    assert (told.code, told.err) == (1, "")
    assert told.json["error"] == "there is no such file, folder or zoo model"
    assert told.json["path"] == "nothing.json" and told.json["hint"]


OUTPUTS: dict[str, tuple[str, Callable[[str], None], str]] = {
    "no folder": ("nothing/o.canvas.json", nothing, "nothing: is no folder"),
    "a file as a folder": ("d.canvas.json/o.canvas.json", nothing, "d.canvas.json: is no folder"),
    "a folder": ("empty", folder, "empty: is a folder"),
    "nothing": ("", nothing, ".: is a folder"),
    "a pipe": ("pipe", fifo, "pipe: exists and is no regular file"),
    "a device": ("/dev/null", nothing, "/dev/null: exists and is no regular file"),
    "a name too long": ("x" * 300, nothing, "cannot be written: File name too long"),
    "a null byte": ("a\0b", nothing, "cannot be written"),
}


@pytest.mark.parametrize(("name", "make", "message"), OUTPUTS.values(), ids=OUTPUTS)
def test_an_output_that_cannot_be_written_is_told(
    run: Any, name: str, make: Callable[[str], None], message: str
) -> None:
    make(name)
    told = run("edit", "d.canvas.json", "--set", "hidden_act=relu", "-o", name)
    assert (told.code, told.out, told.made) == (1, "", frozenset())
    assert message in told.err
    assert not Path("/dev/null").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(run: Any) -> None:
    os.mkdir("locked", mode=0o500)
    for verb in ("edit", "emit"):
        told = run(verb, "d.canvas.json", *(["--set", "hidden_act=relu"] if verb == "edit" else []), "-o", "locked/o")
        assert (told.code, told.made) == (1, frozenset())
        assert "cannot be written" in told.err


def test_a_folder_that_canvas_did_not_write_is_left_alone(run: Any) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    for name in ("mine", "d.canvas.json", "x" * 300, "a\0b", "d.canvas.json/out"):
        told = run("emit", "d.canvas.json", "-o", name)
        assert (told.code, told.out, told.made) == (1, "", frozenset()), name
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


def test_a_graph_with_errors_is_not_emitted(run: Any) -> None:
    assert run("edit", "d.canvas.json", "--set", "num_key_value_heads=3", "-o", "bad.canvas.json").code == 0
    for verb in ("emit", "measure", "verify", "diff"):
        told = run(VERBS[verb][0], "bad.canvas.json", *VERBS[verb][1:])
        assert (told.code, told.out, told.made) == (1, "", frozenset())
        assert "num_attention_heads (4) is not a multiple of num_key_value_heads (3)" in told.err
    assert "1 errors: 'canvas-rt check' lists them" in run("show", "bad.canvas.json").out


ASSIGNMENTS = {
    "": "is no assignment",
    "=": "is no assignment",
    "hidden_size": "is no assignment",
    "hidden_size=": "hidden_size: must be an integer or an expression",
    "hidden_size=abc": "hidden_size: must be an integer or an expression",
    "hidden_size=-1": "hidden_size: must be a whole number from 1",
    "hidden_size=0": "hidden_size: must be a whole number from 1",
    "hidden_size=1e9": "hidden_size: must be an integer or an expression",
    "hidden_size=99999999999999999999": "hidden_size: must be a whole number from 1",
    "hidden_size=NaN": "hidden_size: must be an integer or an expression",
    "hidden_size=null": "hidden_size",
    "hidden_size=true": "hidden_size: must be an integer or an expression",
    "hidden_size==9**9**9": "is not allowed in a size",
    "hidden_size==__import__('os')": "may hold only names, numbers",
    "hidden_size==hidden_size": "a circle",
    "num_hidden_layers=10000000": "a stack has at most 4096 layers",
    "num_hidden_layers=0": "num_hidden_layers: must be a whole number from 1",
    "hiden_size=64": "Did you mean hidden_size",
    "__class__=1": "there is no size or config value '__class__'",
    "model.layers.99.mlp.intermediate_size=4": "layers has 4 layers, 0 to 3",
    "model.layers.2-1.mlp.intermediate_size=4": "model.layers.2-1",
    "model.layers..mlp.intermediate_size=4": "model.layers",
    "model.layers.0.mpl.intermediate_size=4": "Did you mean mlp",
    "model.layers.0.mlp.hidden_act=relu": "one value for the whole model",
    "model.layers.0.mlp.gate_proj.biass=true": "Did you mean bias",
    "model.layers.0.mlp.gate_proj.bias=5": "bias",
    "model.layers.0.mlp.gate_proj.out_features=-5": "out_features must be a whole number",
    "hidden_act=5": "hidden_act: must be text",
    "rms_norm_eps=abc": "rms_norm_eps: must be a number",
    "rope_parameters.rope_theeta=5": "Did you mean rope_theta",
    "rope_parameters=5": "rope_parameters: must be a table",
    "\x1b[2J=1": "'\\x1b[2J'",
}


@pytest.mark.parametrize(("text", "message"), ASSIGNMENTS.items(), ids=lambda text: ascii(text)[:40])
def test_a_bad_assignment_is_told(run: Any, text: str, message: str) -> None:
    told = run("edit", "d.canvas.json", "--set", text, "-o", "o.canvas.json")
    assert (told.code, told.out, told.made) == (1, "", frozenset())
    assert message in told.err


EDITS = {
    "5": "edit 0: must be an object with a 'kind'",
    "null": "edit 0: must be an object with a 'kind'",
    "[[]]": "edit 0: must be an object with a 'kind'",
    "{}": "edit 0: has no 'kind'",
    '{"kind": "set_sise"}': "Did you mean set_size",
    '{"kind": "set_size"}': "edit 0 (set_size): path: Field required",
    '[{"kind": "set_size", "path": "", "name": "hidden_size", "value": "x"}]': "edit 0 (set_size): value",
    '[{"kind": "set_size", "path": "modl", "name": "hidden_size", "value": 8}]': "Did you mean model",
    '[{"kind": "set_size", "path": "", "name": "hidden_size", "value": NaN}]': "0.value: is NaN",
    '[{"kind": "remove_node", "path": ""}]': "the empty path is the whole model",
    '[{"kind": "remove_node", "path": "model"}]': "lm_head",
    '[{"kind": "rename_node", "path": "lm_head", "new_id": "__class__"}]': "is not a Python identifier",
    '[{"kind": "rename_node", "path": "lm_head", "new_id": "input_ids"}]': "'input_ids' is an input of the block",
    '[{"kind": "delete_layers", "path": "model.layers.0-3"}]': "would leave the stack without layers",
    '[{"kind": "replace_block", "path": "model", "block": "LlamaForCausalLM"}]': "would contain itself",
    '[{"kind": "restore", "root": "Nope"}]': "the root, Nope, is not a block",
    '[{"kind": "restore", "config": {"auto_map": {"AutoConfig": "a.B"}}}]': "o.canvas.json: is not a valid document",
}


@pytest.mark.parametrize(("text", "message"), EDITS.items(), ids=EDITS)
def test_bad_edits_are_told(run: Any, text: str, message: str) -> None:
    Path("edits.json").write_text(text)
    told = run("edit", "d.canvas.json", "--apply", "edits.json", "-o", "o.canvas.json")
    assert (told.code, told.out, told.made) == (1, "", frozenset())
    assert message in told.err


@pytest.mark.parametrize(
    ("name", "make", "message"), [SOURCES[key] for key in ("a pipe", "100 MB", "an empty file", "a device")]
)
def test_edits_are_read_with_the_same_suspicion(run: Any, name: str, make: Callable[[str], None], message: str) -> None:
    make(name)
    told = run("edit", "d.canvas.json", "--apply", name, "-o", "o.canvas.json")
    assert (told.code, told.made) == (1, frozenset())
    assert message in told.err


USAGE = (
    ("fly",),
    ("show",),
    ("--json", "zoo"),
    ("zoo", "extra"),
    ("import", "llama-3.1-8b"),
    ("edit", "d.canvas.json", "--set", "hidden_size=64"),
    ("emit", "d.canvas.json"),
    ("diff", "d.canvas.json"),
    ("measure", "d.canvas.json", "--mode", "sleep"),
    ("measure", "d.canvas.json", "--dtype", "int3"),
    ("measure", "d.canvas.json", "--by", "colour"),
    *(
        ("measure", "d.canvas.json", flag, text)
        for flag in ("--batch", "--sequence")
        for text in ("0", "-1", "x", "1.5", "9" * 20)
    ),
)


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_bad_usage_exits_with_2(run: Any, arguments: tuple[str, ...]) -> None:
    told = run(*arguments)
    assert (told.code, told.out, told.made) == (2, "", frozenset())
    assert told.err.startswith("usage: canvas-rt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--hardware", "a100"), "unknown card 'a100'\nDid you mean "),
        (("--optimizer", "adamm"), "unknown optimizer 'adamm'\nDid you mean adam"),
        (("--mode", "train", "--batch", "999999999", "--sequence", "999999999"), ""),
    ],
)
def test_a_scenario_that_cannot_be_is_told(run: Any, arguments: tuple[str, ...], message: str) -> None:
    told = run("measure", "d.canvas.json", *arguments)
    assert message in told.err
    assert told.code == 1 or not message


@pytest.mark.parametrize(
    "budget", ["vram", "vram=", "vram=80", "vram=-5GB", "vram=nanGB", "vram=1e999GB", "ram=80GB", "vram=80TB"]
)
def test_a_budget_that_is_none_is_told(run: Any, budget: str) -> None:
    told = run("check", "d.canvas.json", "--budget", budget)
    assert told.code == 1
    assert f"'{budget}' is no budget\nAs in vram=80GB." in told.err


def test_nothing_to_edit_is_told(run: Any) -> None:
    told = run("edit", "d.canvas.json", "-o", "o.canvas.json")
    assert (told.code, told.made) == (1, frozenset())
    assert "nothing to edit\nGive --set PATH.NAME=VALUE or --apply EDITS.json." in told.err


HOSTILE: dict[str, Callable[[Any], None]] = {
    "a million layers": lambda d: d["sizes"].update(num_hidden_layers=10**6),
    "a size without end": lambda d: d["sizes"].update(hidden_size="=9**9**9"),
    "a size in a circle": lambda d: d["sizes"].update(hidden_size="=hidden_size"),
    "a text for a size": lambda d: d["config"].update(max_position_embeddings="x"),
    "rotary parameters of no sort": lambda d: d["config"].update(rope_parameters={"rope_type": ["x"]}),
    "an op that is not known": lambda d: d["blocks"]["LlamaMLP"]["nodes"][0].update(op="\x1b[2J"),
    "settings of another sort": lambda d: d["blocks"]["LlamaMLP"]["nodes"][0]["attrs"].update(in_features="abc"),
    "no settings": lambda d: d["blocks"]["LlamaMLP"]["nodes"][0].update(attrs={}),
    "no wires": lambda d: d["blocks"]["LlamaMLP"]["nodes"][1].update(inputs={}),
    "a circle": lambda d: d["blocks"]["LlamaMLP"]["nodes"][0].update(inputs={"x": "gated"}),
    "ties of nothing": lambda d: (d["config"].update(tie_word_embeddings=True), d.update(ties={"a": "b"}))[0],
    "another root": lambda d: d.update(root="LlamaMLP"),
    "a hostile name": lambda d: d.update(name='"""\nimport os\n"""', log=[{"kind": "`\n# x"}]),
}


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_is_shown_and_told_but_never_trusted(run: Any, spoil: Callable[[Any], None]) -> None:
    data = json.loads(Path("d.canvas.json").read_text())
    spoil(data)
    Path("h.canvas.json").write_text(json.dumps(data))
    for verb, arguments in VERBS.items():
        if verb in ("import", "verify"):
            continue
        ran = run(arguments[0], "h.canvas.json", *arguments[1:])
        assert ran.code in (0, 1)
        assert "\x1b" not in ran.out + ran.err
        assert ran.code == 0 or not ran.made
