"""Each verb does what it says, exits 0, and gives machines the keys that the contract names."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import canvas_rt
from canvas_rt.ir import load

CONFIG = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def test_zoo_lists_what_can_be_opened(run: Any) -> None:
    listed = run("zoo", "--json")
    assert listed.code == 0
    assert {"name": "llama-3.1-8b", "family": "llama", "parameters": 8_030_261_248} in listed.json
    families = run("zoo").out.split("\nmistral\n")
    assert "  llama-3.1-8b         8,030,261,248 parameters" in families[0].splitlines()
    assert "  mistral-7b-v0.1      7,241,732,096 parameters" in families[1].splitlines()


def test_import_writes_a_document_and_reports(run: Any) -> None:
    Path("mine").mkdir()
    Path("mine/config.json").write_text(json.dumps({**CONFIG, "my_field": 1}))
    Path("mine/pytorch_model.bin").write_bytes(b"")
    ran = run("import", "mine", "-o", "mine.canvas.json", "--set", "num_hidden_layers=3", "--json")
    assert (ran.code, ran.made) == (0, {"mine.canvas.json"})
    assert ran.json.keys() == {
        "nodes",
        "recognised",
        "symbols",
        "literals",
        "without_effect",
        "unused",
        "structural",
        "not_in_model",
        "notes",
    }
    assert "my_field" in ran.json["without_effect"]
    assert ran.json["notes"] == ["weights in pytorch_model.bin were not compared: Canvas reads safetensors alone"]
    document = load("mine.canvas.json")
    assert (document.name, document.sizes["num_hidden_layers"]) == ("mine", 3)
    assert str(Path.cwd()) not in Path("mine.canvas.json").read_text()


def test_import_takes_a_folder_that_emit_wrote_and_runs_no_code_unless_told_to(run: Any) -> None:
    run("emit", "d.canvas.json", "-o", "out")
    ran = run("import", "out", "-o", "o.canvas.json")
    assert (ran.code, load("o.canvas.json")) == (0, load("d.canvas.json"))
    assert ran.out.endswith("\nits code is what its document emits: nothing ran\n")
    Path("out/model.py").write_text("1 / 0")
    told = run("import", "out", "-o", "p.canvas.json")
    assert (told.code, told.made) == (1, frozenset())
    assert "out: holds code that its document does not emit: model.py differs in line 1. Canvas runs no" in told.err
    assert "add --trust-code (trust_code=True): it runs in a process of its own" in told.err
    told = run("import", "out", "-o", "p.canvas.json", "--trust-code")
    assert (told.code, told.made) == (1, frozenset())
    assert "model.py: cannot be loaded: ZeroDivisionError: division by zero" in told.err


def test_show_prints_the_graph(run: Any) -> None:
    folded = run("show", "d.canvas.json")
    assert folded.code == 0
    assert folded.out.startswith("LlamaForCausalLM · ")
    assert "model.layers        Stack            num_hidden_layers × LlamaDecoderLayer" in folded.out
    assert "LlamaAttention(hidden_states, cos, sin)  # attention" in run("show", "d.canvas.json", "--unfold").out
    assert run("show", "d.canvas.json", "--json").json["root"] == "LlamaForCausalLM"


def test_edit_writes_the_edited_document(run: Any) -> None:
    edits = [{"kind": "set_size", "path": "model.layers.1-2.mlp", "name": "intermediate_size", "value": 48}]
    Path("edits.json").write_text(json.dumps(edits))
    ran = run(
        "edit", "d.canvas.json", "--apply", "edits.json", "--set", "hidden_act=relu", "-o", "e.canvas.json", "--json"
    )
    assert (ran.code, ran.made) == (0, {"e.canvas.json"})
    assert ran.json == {"edits": 2, "output": "e.canvas.json"}
    assert load("e.canvas.json").config["hidden_act"] == "relu"


def test_an_edit_may_replace_its_own_source(run: Any) -> None:
    assert run("edit", "d.canvas.json", "--set", "vocab_size=256", "-o", "d.canvas.json").code == 0
    assert load("d.canvas.json").sizes["vocab_size"] == 256


def test_check_gives_shapes_and_diagnostics(run: Any) -> None:
    good = run("check", "d.canvas.json", "--json")
    assert (good.code, good.json["ok"], good.json["diagnostics"]) == (0, True, [])
    assert good.json["shapes"]["lm_head"] == [["batch", "seq", "vocab_size"]]
    assert run("edit", "d.canvas.json", "--set", "num_key_value_heads=3", "-o", "bad.canvas.json").code == 0
    bad = run("check", "bad.canvas.json", "--json")
    assert bad.code == 1
    assert [d["severity"] for d in bad.json["diagnostics"]] == ["error"]
    assert bad.json["diagnostics"][0].keys() == {"severity", "path", "message", "hint"}
    assert "num_attention_heads (4) is not a multiple of num_key_value_heads (3)" in run("check", "bad.canvas.json").out


def test_check_fails_over_a_budget(run: Any) -> None:
    assert run("check", "llama-3.1-8b", "--budget", "vram=80GB", "--hardware", "h100-80gb").code == 1
    assert run("check", "d.canvas.json", "--budget", "vram=80GB").code == 0


@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_measure_gives_the_keys_that_others_rely_on(run: Any, mode: str) -> None:
    report = run("measure", "d.canvas.json", "--json", "--mode", mode, "--batch", "2", "--sequence", "32")
    assert report.code == 0
    keys = {
        "parameters": {"total", "active"},
        "flops": {"forward", "backward"},
        "memory": {
            "weights",
            "gradients",
            "optimizer",
            "activations",
            "kv_cache",
            "peak_allocated",
            "peak_reserved",
            "device_total",
        },
        "time": {"total_s"},
    }
    assert all(wanted <= report.json[part].keys() for part, wanted in keys.items())
    assert report.json["fits"] is True
    assert "on the device: fits" in run("measure", "d.canvas.json", "--mode", mode, "--by", "node").out


def test_a_scenarios_fields_are_options(run: Any) -> None:
    flags = (
        "--recompute",
        "full",
        "--dtype",
        "mixed",
        "--lora",
        "4",
        "--lora-targets",
        "q_proj,v_proj",
        "--tokens",
        "2T",
    )
    report = run("measure", "d.canvas.json", "--json", "--sequence", "32", "--no-reshard", *flags).json
    wanted = {
        "recompute": "full",
        "dtype": "mixed",
        "lora": 4,
        "lora_targets": ["q_proj", "v_proj"],
        "tokens": 2 * 10**12,
    }
    assert wanted.items() <= report["scenario"].items()
    assert report["scenario"]["reshard"] is False
    assert report["budget"]["gpu_hours"] > 0
    told = run("measure", "d.canvas.json", "--sequence", "32", *flags).out
    assert "recomputing full, LoRA of rank 4" in told
    assert "2,000,000,000,000 tokens: " in told


def test_by_node_tells_the_formulas(run: Any) -> None:
    told = run("measure", "d.canvas.json", "--sequence", "24", "--batch", "3", "--by", "node").out
    assert "flops_forward = 2 × batch × seq × vocab_size × hidden_size = " in told


def test_nonsense_in_a_scenario_is_told_with_a_way_out(run: Any) -> None:
    refused = run("measure", "d.canvas.json", "--optimizer", "adamv", "--loss", "none")
    assert refused.code == 1
    assert "unknown optimizer 'adamv'" in refused.err
    assert "Did you mean adam" in refused.err
    assert "also loss: unknown loss 'none'" in refused.err


def test_many_cards_tell_what_each_sends(run: Any) -> None:
    told = run("measure", "d.canvas.json", "--sequence", "32", "--data", "4").out
    assert "4 × NVIDIA A100" in told
    assert "all-gather" in told


def test_solve_finds_what_fits(run: Any) -> None:
    found = run("solve", "d.canvas.json", "--for", "batch", "--budget", "vram=0.7GiB", "--sequence", "32", "--json")
    assert found.code == 0
    assert found.json["report"]["memory"]["device_total"] <= 0.7 * 2**30
    assert run("solve", "d.canvas.json", "--for", "hardware", "--sequence", "32").out.startswith("hardware = t4: ")
    assert run("solve", "d.canvas.json", "--for", "batch", "--budget", "vram=0.1GB").code == 1


def test_cards_of_ones_own(run: Any) -> None:
    Path("mine.toml").write_text(
        '[mine]\nname = "Mine"\narchitecture = "ada"\nmemory_bytes = 1_000_000_000\nnominal_gb = 1\nbandwidth = 1e11\n'
        'link_bandwidth = 1e10\npower_watts = 50\nsource = "here"\npeak_flops = { fp32 = 1e12, bf16 = 2e12 }\n'
    )
    assert "mine" in run("hardware", "--cards", "mine.toml").out
    told = run("measure", "d.canvas.json", "--hardware", "mine", "--cards", "mine.toml", "--sequence", "32")
    assert (told.code, "on Mine" in told.out) == (0, True)
    assert run("measure", "d.canvas.json", "--hardware", "mine").code == 1


def test_a_calibration_is_made_and_used(run: Any) -> None:
    made = run("calibrate", "--hardware", "t4", "--device", "cpu", "--seconds", "1", "-o", "c.json", "--json")
    assert made.code == 0
    used = run("measure", "d.canvas.json", "--hardware", "t4", "--dtype", "fp16", "--calibration", "c.json", "--json")
    plain = run("measure", "d.canvas.json", "--hardware", "t4", "--dtype", "fp16", "--json")
    assert used.json["time"]["total_s"] != plain.json["time"]["total_s"]
    Path("no.json").write_text("{}")
    assert "is no calibration" in run("measure", "d.canvas.json", "--calibration", "no.json").err


def test_emit_writes_a_package_and_replaces_its_own(run: Any) -> None:
    files = {"README.md", "config.json", "document.canvas.json", "generation_config.json", "model.py"}
    first = run("emit", "d.canvas.json", "-o", "out", "--json")
    assert (first.code, set(first.json["files"])) == (0, files)
    assert first.made == {"out", *(f"out/{name}" for name in files)}
    assert run("emit", "d.canvas.json", "-o", "out").code == 0
    assert run("show", "out").code == 0


def test_emit_carries_weights_over(run: Any) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained("in")
    assert run("import", "in", "-o", "m.canvas.json").code == 0
    assert run("edit", "m.canvas.json", "--set", "num_key_value_heads=2", "-o", "m2.canvas.json").code == 0
    told = run("emit", "m2.canvas.json", "-o", "out", "--weights", "in", "--shard-size", "30kB")
    assert told.code == 0 and told.err == ""
    lines = told.out.splitlines()
    assert lines[0].startswith("out: model.py (") and ", model-00003-of-00003.safetensors, " in lines[0]
    assert lines[1] == "copy                17 tensors, 70.3 kB"
    assert lines[2].startswith("mean over groups     4 tensors, 8.2 kB: model.layers.0.self_attn.k_proj.weight, ")
    AutoModelForCausalLM.from_pretrained("out", trust_remote_code=True)
    again = run("emit", "m2.canvas.json", "-o", "out", "--weights", "in", "--json")
    assert (again.code, again.json["path"]) == (1, "out")
    assert again.json["error"] == "holds weights already"
    assert run("emit", "m2.canvas.json", "-o", "o", "--weights", "in", "--shard-size", "much").code == 2
    nothing = run("emit", "m2.canvas.json", "-o", "o", "--weights", "nowhere")
    assert (nothing.code, nothing.made) == (1, set()) and "there is no such folder" in nothing.err


def test_emit_says_whether_the_model_still_is_a_stock_architecture(run: Any) -> None:
    run("edit", "d.canvas.json", "--set", "num_key_value_heads=1", "-o", "d.canvas.json")
    told = run("emit", "d.canvas.json", "-o", "out")
    assert told.out.endswith(
        "\nthis still is LlamaForCausalLM with another config: --native writes just that, without code\n"
    )
    ran = run("emit", "d.canvas.json", "-o", "native", "--native", "--json")
    assert ran.json == {
        "output": "native",
        "files": ["README.md", "config.json", "document.canvas.json", "generation_config.json"],
        "native": True,
        "left": "",
    }
    assert json.loads(Path("native/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert run("show", "native").code == 0


def test_emit_plain_needs_pytorch_alone(run: Any) -> None:
    told = run("emit", "d.canvas.json", "-o", "plain", "--plain")
    assert told.out.startswith("plain: model.py (")
    source = Path("plain/model.py").read_text()
    assert "transformers" not in "".join(line for line in source.splitlines() if "import" in line)
    assert run("emit", "d.canvas.json", "-o", "out", "--plain", "--native").code == 2


def test_emit_names_the_edit_that_left_the_stock_architecture(run: Any) -> None:
    run("edit", "d.canvas.json", "--set", "model.layers.1.mlp.intermediate_size=48", "-o", "e.canvas.json")
    told = run("emit", "e.canvas.json", "-o", "out")
    assert (
        '\nno longer stock LlamaForCausalLM: edit 1 of 1, {"kind": "set_size", "path": "model.layers.1.mlp"' in told.out
    )
    assert (
        "some layers have intermediate_size for themselves"
        in run("emit", "e.canvas.json", "-o", "out", "--json").json["left"]
    )
    refused = run("emit", "e.canvas.json", "-o", "native", "--native")
    assert (refused.code, refused.made) == (1, frozenset())
    assert "is no LlamaForCausalLM with another config: " in refused.err
    assert "without --native" in refused.err


def test_diff_tells_what_an_edit_costs(run: Any) -> None:
    assert run("edit", "d.canvas.json", "--set", "num_hidden_layers=3", "-o", "e.canvas.json").code == 0
    for _ in range(2):
        assert run("diff", "d.canvas.json", "e.canvas.json", "--json").code == 0
    assert "num_hidden_layers" in run("diff", "d.canvas.json", "e.canvas.json").out


def test_hardware_lists_the_cards_with_their_sources(run: Any) -> None:
    cards = run("hardware", "--json")
    assert cards.code == 0
    assert all(card["source"] for card in cards.json)
    assert "a100-80gb" in run("hardware").out


def test_the_version_and_the_help_are_told(run: Any) -> None:
    assert run("--version").out == f"canvas-rt {canvas_rt.__version__}\n"
    for verb in (
        "ui",
        "zoo",
        "import",
        "show",
        "edit",
        "check",
        "measure",
        "solve",
        "calibrate",
        "emit",
        "verify",
        "export",
        "push",
        "diff",
        "hardware",
    ):
        assert run(verb, "--help").code == 0


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "canvas_rt.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_a_process_exits_with_the_verb_s_code(run: Any) -> None:
    good, bad, usage = process("hardware"), process("show", "nothing"), process("show")
    assert (good.returncode, bad.returncode, usage.returncode) == (0, 1, 2)
    assert (bad.stdout, usage.stdout) == ("", "")
    assert "there is no such file, folder or zoo model" in bad.stderr


def test_a_reader_that_leaves_is_no_error(run: Any) -> None:
    command = f'"{sys.executable}" -m canvas_rt.cli hardware --json | head -c 1'
    ran = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("[", "")


def test_a_terminal_without_signs_gets_escapes(run: Any) -> None:
    shown = process("show", "d.canvas.json", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (shown.returncode, shown.stderr) == (0, "")
    assert r"num_hidden_layers \xd7 LlamaDecoderLayer" in shown.stdout


def test_dryrun_gives_measured_beside_predicted(run: Any) -> None:
    found = run("dryrun", "d.canvas.json", "--mode", "prefill", "--sequence", "32", "--json")
    assert found.code == 0 and not found.made
    told = found.json
    assert {"device", "ran", "reason", "whole", "layers", "scenario", "figures", "steps_s", "timeline"} <= set(told)
    assert told["figures"]["parameters.total"]["error"] == 0


def test_a_dry_run_that_dies_or_cannot_begin_exits_with_1(run: Any) -> None:
    dead = run("dryrun", "d.canvas.json", "--sequence", "32", "--timeout", "1")
    assert dead.code == 1 and "died, too long: dry run took longer than 1 s" in dead.out
    refused = run("dryrun", "d.canvas.json", "--sequence", "32", "--device", "cuda", "--lora", "8")
    assert refused.code == 1 and "no dry run has adapters" in refused.err
    assert run("dryrun", "d.canvas.json", "--memory", "much").code == 2
