"""The server answers the browser: sessions of their own, nothing done twice, nothing lost, nonsense refused."""

import json
import threading
from typing import Any

import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from canvas_ui import service as module
from canvas_ui.limits import Limits
from canvas_ui.service import Service

LAYERS = "model.layers.0-15"


class Browser:
    """One tab that talks to a service as the page does, through JSON."""

    def __init__(self, service: Service, name: str = "a" * 20) -> None:
        self.service, self.name, self.serial = service, name, 0

    def raw(self, **request: Any) -> dict[str, Any]:
        self.serial += 1
        envelope = {"session": self.name, "serial": self.serial, "request": request}
        answer: dict[str, Any] = json.loads(json.dumps(self.service.exchange(json.loads(json.dumps(envelope)))))
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        answer = self.raw(**request)
        assert answer["ok"], answer
        return answer


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def browser(service: Service) -> Browser:
    tab = Browser(service)
    tab.ask(type="hello")
    return tab


def nodes(answer: dict[str, Any]) -> dict[str, Any]:
    return {node["path"]: node for node in answer["update"]["level"]["nodes"]}


def test_hello_brings_all_that_a_page_needs(service: Service) -> None:
    answer = Browser(service).ask(type="hello")
    update = answer["update"]
    assert update["name"] == "llama-3.2-1b"
    assert update["totals"]["headline"] == "Training VRAM 20.4 GB / 80 GB (A100)"
    assert {node["path"] for node in update["level"]["nodes"]} == {
        "input_ids", "model", "model.embed_tokens", "model.position_ids", "model.rotary_emb", "model.layers", "model.norm",
        "lm_head", "return",
    }  # fmt: skip
    assert {entry["name"] for entry in answer["catalogue"]["zoo"]} >= {"llama-3.1-405b", "mistral-7b-v0.3"}
    assert update["palette"] and update["sizes"] and update["problems"] == []


def test_a_slider_moves_the_gauge_and_sends_only_what_changed(browser: Browser) -> None:
    update = browser.ask(type="set", field="size:intermediate_size", path="", value=16384, gesture="g")["update"]
    assert update["totals"]["headline"] != "Training VRAM 20.4 GB / 80 GB (A100)"
    assert update["level"]["whole"] is False
    assert "palette" not in update and "problems" not in update
    assert update["edits"] == 1


def test_one_drag_is_one_step_of_undo(browser: Browser) -> None:
    for value in (9000, 10000, 11000):
        browser.ask(type="set", field="size:intermediate_size", path="", value=value, gesture="g")
    update = browser.ask(type="undo")["update"]
    assert update["edits"] == 0 and update["step"]["redo"]
    assert browser.ask(type="redo")["update"]["edits"] == 1


def test_a_mismatch_reddens_the_wire_and_says_the_way_out(browser: Browser) -> None:
    browser.ask(type="look", path=f"{LAYERS}.mlp")
    answer = browser.ask(
        type="edit", edits=[{"kind": "set_attr", "path": f"{LAYERS}.mlp.up_proj", "name": "out_features", "value": 100}]
    )
    bad = [wire for wire in answer["update"]["level"]["wires"] if wire.get("bad")]
    assert [wire["target"] for wire in bad] == [
        {"path": f"{LAYERS}.mlp.gated", "port": "a"},
        {"path": f"{LAYERS}.mlp.gated", "port": "b"},
    ] or bad
    problem = answer["update"]["problems"][0]
    assert "8192" in problem["message"] and "100" in problem["message"] and problem["hint"]
    assert (problem["level"], problem["node"]) == (f"{LAYERS}.mlp", f"{LAYERS}.mlp.gated")
    assert answer["update"]["totals"].get("device_total") is None
    assert browser.ask(type="undo")["update"]["problems"] == []


def test_a_wire_that_brings_the_wrong_shape_into_a_block_is_red(browser: Browser) -> None:
    browser.ask(type="look", path=LAYERS)
    source, target = {"path": f"{LAYERS}.cos", "port": "cos"}, {"path": f"{LAYERS}.mlp", "port": "hidden_states"}
    level = browser.ask(type="connect", source=source, target=target)["update"]["level"]
    assert [wire["target"] for wire in level["wires"] if wire.get("bad")] == [target]


def test_moving_a_wires_end_is_one_step(browser: Browser) -> None:
    browser.ask(type="look", path=f"{LAYERS}.mlp")
    source = {"path": f"{LAYERS}.mlp.act_fn", "port": "out"}
    a, b = ({"path": f"{LAYERS}.mlp.gated", "port": port} for port in "ab")
    update = browser.ask(type="connect", source=source, target=b, instead=a)["update"]
    assert "gated.a" in str(update["problems"]) or "a" in str(update["problems"])
    assert browser.ask(type="undo")["update"]["edits"] == 0


def test_ids_are_integers_all_the_way(browser: Browser) -> None:
    embed = nodes(browser.ask(type="look", path="model"))["model.embed_tokens"]
    assert embed["inputs"][0]["dtype"] == "int" and embed["outputs"][0]["dtype"] == "float"


def test_problems_below_show_on_the_nodes_above(browser: Browser) -> None:
    edit = {"kind": "set_size", "path": "model.layers.3.self_attn", "name": "num_key_value_heads", "value": 5}
    shown = nodes(browser.ask(type="edit", edits=[edit]))
    assert shown["model.layers"]["severity"] == "error" and "multiple" in shown["model.layers"]["problem"]
    assert "severity" not in nodes(browser.ask(type="look", path="model.layers.4-15"))["model.layers.4-15.self_attn"]
    assert nodes(browser.ask(type="look", path="model.layers.3"))["model.layers.3.self_attn"]["severity"] == "error"


def test_the_same_request_twice_is_done_once_and_answered_twice(browser: Browser) -> None:
    request = {
        "session": browser.name,
        "serial": 77,
        "request": {"type": "insert", "what": "op:dropout", "path": "model"},
    }
    first, second = (browser.service.exchange(request) for _ in range(2))
    assert first == second
    assert first["update"]["edits"] == 1 == browser.ask(type="hello")["update"]["edits"]


def test_two_sessions_do_not_see_each_other(service: Service) -> None:
    one, other = Browser(service, "one-" + "x" * 16), Browser(service, "other-" + "x" * 16)
    one.ask(type="hello")
    other.ask(type="hello")
    one.ask(type="set", field="size:hidden_size", path="", value=1024)
    assert other.ask(type="undo")["update"]["edits"] == 0
    assert other.ask(type="save")["autosave"]["document"] != one.ask(type="save")["autosave"]["document"]


def test_a_server_that_forgot_takes_the_work_back(browser: Browser) -> None:
    browser.ask(type="set", field="size:hidden_size", path="", value=1024)
    browser.ask(type="insert", what="op:dropout", path="model", wire={"path": "model.norm", "port": "x"})
    kept = browser.ask(type="save")["autosave"]
    anew = Browser(Service())
    assert anew.raw(type="undo")["error"]["lost"]
    answer = anew.ask(type="hello", autosave=kept)
    assert answer["update"]["edits"] == 3
    assert anew.ask(type="save")["autosave"] == kept
    anew.ask(type="undo")
    assert anew.ask(type="undo")["update"]["edits"] == 0


def test_what_was_done_after_the_autosave_is_done_again_with_hello(browser: Browser) -> None:
    kept = browser.ask(type="save")["autosave"]
    wire = {"path": "model.norm", "port": "x"}
    journal: list[dict[str, Any]] = [
        {"type": "set", "field": "size:hidden_size", "path": "", "value": 1024},
        {"type": "insert", "what": "op:dropout", "path": "model", "wire": wire},
        {"type": "delete", "paths": ["model.nothing"]},
        {"type": "nonsense"},
        {"type": "undo"},
    ]
    for request in journal[:2]:
        browser.ask(**request)
    browser.ask(type="undo")
    anew = Browser(Service())
    anew.ask(type="hello", autosave=kept, journal=journal)
    assert anew.ask(type="save")["autosave"]["document"] == browser.ask(type="save")["autosave"]["document"]
    assert anew.ask(type="redo")["update"]["edits"] == 3
    assert Browser(Service()).ask(type="hello", journal=journal[:1])["update"]["edits"] == 1


def test_hello_again_goes_on_where_the_tab_was(browser: Browser) -> None:
    browser.ask(type="set", field="size:hidden_size", path="", value=1024)
    answer = browser.ask(type="hello", source="llama-2-7b")
    assert answer["resumed"] and answer["update"]["name"] == "llama-3.2-1b" and answer["update"]["edits"] == 1


def test_sessions_are_bounded_in_number_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(limits=Limits(sessions=3))
    tabs = [Browser(service, f"tab-{index}-" + "x" * 16) for index in range(5)]
    for tab in tabs:
        tab.ask(type="hello")
    assert len(service.tabs) == 3
    assert tabs[0].raw(type="undo")["error"]["lost"] and tabs[4].raw(type="undo")["ok"]
    monkeypatch.setattr(module, "IDLE_SECONDS", -1)
    assert tabs[4].raw(type="undo")["error"]["lost"]


@pytest.mark.parametrize(
    "request_",
    [
        {"type": "insert", "what": "op:linear", "path": "no.where"},
        {"type": "insert", "what": "op:linear", "path": "model", "wire": {"path": "model.norm", "port": "q"}},
        {"type": "connect", "source": {"path": "lm_head", "port": "out"}, "target": {"path": "model.embed_tokens", "port": "ids"}},
        {"type": "delete", "paths": ["return"]},
        {"type": "delete", "paths": ["model.none"]},
        {"type": "edit", "edits": [{"kind": "nonsense"}]},
        {"type": "set", "field": "size:hidden_size", "path": "", "value": "many"},
        {"type": "set", "field": "size:hidden_size", "path": "", "value": -1},
        {"type": "set", "field": "size:nothing", "path": "", "value": 1},
        {"type": "set", "field": "attr:eps", "path": "model.nothing", "value": 1},
        {"type": "set", "field": "size:hidden_size", "path": "", "value": "=__import__('os')"},
        {"type": "place", "positions": {"model.nothing": [1, 2]}},
        {"type": "paste", "clip": "[]", "path": "model"},
        {"type": "copy", "paths": []},
        {"type": "open", "source": "zoo", "name": "no-such-model"},
        {"type": "open", "source": "text", "name": "x.json", "text": "{"},
        {"type": "open", "source": "text", "name": "config.json", "text": '{"model_type": "nonsense"}'},
        {"type": "open", "source": "text", "name": "d.json", "text": '{"schema_version": 1}'},
        {"type": "scenario", "scenario": {"hardware": "no-card"}},
        {"type": "scenario", "scenario": {"dtype": "int3"}},
        {"type": "scenario", "scenario": {"batch": 0}},
        {"type": "hello", "autosave": {"document": "{}"}},
        {"type": "nothing"},
        {},
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told_and_changes_nothing(browser: Browser, request_: dict[str, Any]) -> None:
    before = browser.ask(type="save")
    answer = browser.raw(**request_)
    if request_.get("type") != "hello":
        assert not answer["ok"] and answer["error"]["message"]
        assert "flaw of Canvas" not in answer["error"]["message"]
    assert browser.ask(type="save") == before


@pytest.mark.parametrize(
    "envelope", [None, [], "x", {"session": "short", "serial": 0, "request": {"type": "undo"}}, {"session": "a" * 20}]
)
def test_a_malformed_envelope_is_refused(service: Service, envelope: Any) -> None:
    assert service.exchange(envelope)["ok"] is False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "path",
    "what",
    "wire",
    "source",
    "target",
    "field",
    "value",
    "paths",
    "positions",
    "clip",
    "text",
    "end",
    "side",
    "scope",
)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(
        [*(answer.__name__ for answer in module.ANSWERS.values()), "set", "insert", "find", "connect"]
    ),
    fields=st.dictionaries(
        st.sampled_from(FIELDS), JSON | st.sampled_from(["model", "model.layers", "op:linear", "return"]), max_size=4
    ),
)
def test_no_request_whatsoever_is_a_flaw_of_ours(kind: str, fields: dict[str, Any]) -> None:
    browser = Browser(SHARED)
    browser.ask(type="hello")
    answer = browser.raw(type=kind, **fields)
    assert answer["ok"] or "flaw of Canvas" not in answer["error"]["message"], answer


SHARED = Service()


def test_sessions_answer_at_the_same_time(service: Service) -> None:
    failures: list[object] = []

    def work(index: int) -> None:
        tab = Browser(service, f"tab-{index}-" + "x" * 16)
        tab.ask(type="hello")
        for step in range(8):
            width = 1024 * (1 + (index + step) % 4)
            update = tab.ask(type="set", field="size:intermediate_size", path="", value=width)["update"]
            shown = (
                next(field["value"] for field in update.get("sizes", []) if field["label"] == "intermediate_size")
                if "sizes" in update
                else width
            )
            if shown != width:
                failures.append((index, step, shown, width))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_find_looks_inside_blocks_and_says_where_to_go(browser: Browser) -> None:
    hits = browser.ask(type="find", text="q_proj")["hits"]
    assert hits[0]["path"] == f"{LAYERS}.self_attn.q_proj" and hits[0]["level"] == f"{LAYERS}.self_attn"
    assert browser.ask(type="find", text="norm")["hits"][0]["level"] == ""
    assert browser.ask(type="find", text="xyzzy")["hits"] == []


def test_offers_are_all_possible(browser: Browser) -> None:
    browser.ask(type="look", path=LAYERS)
    end = {"path": f"{LAYERS}.self_attn", "port": "out"}
    found = browser.ask(type="offers", end=end, side="source")["offers"]
    existing = [offer["existing"] for offer in found if offer.get("existing")]
    assert {"path": f"{LAYERS}.mlp", "port": "hidden_states"} in existing
    for offer in found:
        if offer.get("existing"):
            browser.ask(type="connect", source=end, target=offer["existing"])
        else:
            browser.ask(type="insert", what=offer["what"], path=LAYERS, source=end)
        browser.ask(type="undo")


def test_details_explain_their_numbers(browser: Browser) -> None:
    details = browser.ask(type="inspect", path=f"{LAYERS}.mlp.gate_proj")["update"]["details"]
    assert details["parameters"][0]["key"] == f"{LAYERS}.mlp.gate_proj.weight"
    sizes = {"batch": 1, "seq": 4096, "hidden_size": 2048, "intermediate_size": 8192, "layers": 1}
    for formula in details["formulas"]:
        text = formula["text"].replace("×", "*").replace(" layers", "")
        assert eval(text, {"__builtins__": {}}, sizes) == formula["value"], formula


@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
@pytest.mark.parametrize("level", ["", LAYERS, f"{LAYERS}.self_attn", f"{LAYERS}.mlp", "model.layers.8-15.self_attn"])
def test_every_formula_of_every_node_evaluates_to_its_number(browser: Browser, level: str, mode: str) -> None:
    browser.ask(type="scenario", scenario={"mode": mode, "batch": 3, "sequence": 512})
    sizes = {
        field["label"]: field["value"]
        for field in browser.ask(type="hello")["update"]["sizes"]
        if field["id"].startswith("size:")
    }
    names = {**sizes, "batch": 3, "seq": 512}
    seen = 0
    for path, node in nodes(browser.ask(type="look", path=level) if level else browser.ask(type="hello")).items():
        details = browser.ask(type="inspect", path=path)["update"]["details"]
        for formula in details.get("formulas", []):
            text = formula["text"].replace("×", "*").replace(" layers", "")
            assert eval(text, {"__builtins__": {}}, names) == formula["value"], (path, formula, node["kind"])
            seen += 1
    assert seen


def test_figures_are_what_plotly_draws(browser: Browser) -> None:
    figures = browser.ask(type="figures", dark=True)["figures"]
    assert set(figures) == {"memory", "parameters", "roofline", "timeline"}
    total = sum(bar["x"][0] for bar in figures["memory"]["data"])
    shown = browser.ask(type="hello")["update"]["totals"]["device_total"] / 2**30
    assert abs(total - shown) < 1e-6


def test_a_file_from_a_stranger_opens_or_is_refused_in_words(browser: Browser) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100}  # fmt: skip
    answer = browser.ask(type="open", source="text", name="tiny/config.json", text=json.dumps(config))
    assert answer["update"]["step"]["undo"] and answer["update"]["sizes"]
    assert browser.ask(type="undo")["update"]["name"] == "llama-3.2-1b"


@pytest.mark.parametrize("model", ["llama-3.2-1b", "llama-3.1-405b"])
def test_a_scenario_of_any_size_is_answered_in_numbers_that_json_holds(browser: Browser, model: str) -> None:
    browser.ask(type="open", source="zoo", name=model)
    for batch, sequence in ((2**20, 2**24), (64, 131072), (1024, 8192)):
        for mode in ("train", "prefill", "decode"):
            scenario = {"batch": batch, "sequence": sequence, "mode": mode}
            answer = browser.ask(type="scenario", scenario=scenario)
            orjson.dumps(answer)
            assert answer["update"]["totals"]["headline"]
            orjson.dumps(browser.ask(type="figures"))
    browser.ask(type="scenario", scenario={"batch": 2**20, "sequence": 2**24})
    orjson.dumps(browser.ask(type="set", field="size:hidden_size", path="", value=10**9))


@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
@pytest.mark.parametrize(
    "what", ["op:attention", "recipe:sliding_window_attention", "recipe:decoder_layer", "recipe:moe_decoder_layer"]
)
def test_what_nothing_reads_yet_does_not_take_the_cost_away(browser: Browser, what: str, mode: str) -> None:
    browser.ask(type="scenario", scenario={"mode": mode})
    before = browser.ask(type="hello")["update"]["totals"]
    browser.ask(type="insert", what=what, path=LAYERS)
    assert browser.ask(type="hello")["update"]["totals"] == before


def test_logits_must_bring_the_batch(browser: Browser) -> None:
    browser.ask(type="scenario", scenario={"batch": 2})
    source, target = {"path": "model.position_ids", "port": "out"}, {"path": "model.embed_tokens", "port": "ids"}
    update = browser.ask(type="connect", source=source, target=target)["update"]
    errors = [problem for problem in update["problems"] if problem["severity"] == "error"]
    assert [problem["node"] for problem in errors] == ["return"] and "[1, 4096, 128256]" in errors[0]["message"]


def test_token_ids_do_not_go_into_what_takes_fractions(browser: Browser) -> None:
    wire = {"path": "model.embed_tokens", "port": "ids"}
    update = browser.ask(type="insert", what="op:linear", path="model", wire=wire)["update"]
    assert any("whole numbers" in problem["message"] for problem in update["problems"])


def test_a_flaw_of_ours_changes_nothing(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    before = browser.ask(type="save")
    with monkeypatch.context() as broken:
        broken.setattr(module, "draw", lambda *arguments: 1 / 0)
        answer = browser.raw(type="set", field="size:hidden_size", path="", value=1024)
        assert not answer["ok"] and "flaw of Canvas" in answer["error"]["message"]
    assert browser.ask(type="save") == before
    assert browser.ask(type="undo")["update"]["level"]["whole"], "the page is told everything anew"


def test_work_of_another_tab_comes_with_its_history(browser: Browser) -> None:
    browser.ask(type="set", field="size:hidden_size", path="", value=1024)
    browser.ask(type="set", field="size:hidden_size", path="", value=512)
    kept = browser.ask(type="save")["autosave"]
    other = Browser(browser.service, "other-" + "x" * 16)
    other.ask(type="hello", source="llama-2-7b")
    other.ask(type="open", source="text", name="mine", text=kept["document"], undo=kept["undo"])
    shown = [other.ask(type="undo")["update"] for _ in range(3)]
    assert [update["edits"] for update in shown] == [1, 0, 0]
    assert [update["name"] for update in shown] == ["llama-3.2-1b", "llama-3.2-1b", "llama-2-7b"]


def test_a_proof_goes_stale_with_the_next_change(browser: Browser) -> None:
    service, document = browser.service, browser.service.document(browser.name)
    assert document is not None and service.prove(browser.name, document, "proved")
    assert service.certificate(browser.name, document) == "proved"
    assert not service.stale_proof(browser.name)
    browser.ask(type="set", field="size:hidden_size", path="", value=1024)
    assert service.stale_proof(browser.name)
    assert not service.stale_proof(browser.name), "told once"
    assert not service.certificate(browser.name, document)
    assert not service.prove(browser.name, document)


CONFIGS = {
    "llama": {"model_type": "llama", "num_key_value_heads": 2, "dtype": "bfloat16"},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2, "vocab_size": 128},
}


def test_two_tabs_open_configs_at_once(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 128,
    }
    texts = {name: json.dumps((sizes if name == "llama" else {}) | config) for name, config in CONFIGS.items()}
    answers: dict[str, dict[str, Any]] = {}

    def open_in_a_tab(name: str) -> None:
        tab = Browser(service, name.ljust(20, "x"))
        tab.ask(type="hello")
        answers[name] = tab.raw(type="open", source="text", name=f"{name}.json", text=texts[name])

    tabs = [threading.Thread(target=open_in_a_tab, args=(name,)) for name in CONFIGS]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert {name: answer["update"]["name"] for name, answer in answers.items() if answer["ok"]} == {
        "llama": "llama",
        "gpt2": "gpt2",
    }, answers
    assert torch.get_default_dtype() == torch.float32
    assert capsys.readouterr().out == ""


def test_an_image_model_takes_images_and_scores_labels(service: Service) -> None:
    tab = Browser(service)
    tab.ask(type="hello")
    seen = nodes(tab.ask(type="open", source="zoo", name="vit-base-patch16-224"))
    taken, given = seen["pixel_values"], next(node for node in seen.values() if node["kind"] == "output")
    assert (taken["title"], taken.get("fields", []), taken["outputs"][0]["dtype"]) == ("Image input", [], "float")
    assert given["detail"] == "a score for each label"


def test_what_generates_nothing_is_not_asked_to(service: Service) -> None:
    tab = Browser(service)
    modes = ["train", "prefill", "decode", "chat"]
    assert tab.ask(type="hello")["update"]["purpose"] == {"modes": modes, "tokens": True}
    tab.ask(type="scenario", scenario={"mode": "chat"})
    update = tab.ask(type="open", source="zoo", name="vit-base-patch16-224")["update"]
    assert update["purpose"] == {"modes": modes[:2], "tokens": False}
    assert update["scenario"]["mode"] == "prefill"
    assert update["totals"]["headline"].startswith("Inference VRAM ")
    assert tab.ask(type="undo")["update"]["purpose"] == {"modes": modes, "tokens": True}


def test_a_model_with_an_encoder_takes_what_is_read_and_what_is_made(service: Service) -> None:
    tab = Browser(service)
    tab.ask(type="hello")
    seen = nodes(tab.ask(type="open", source="zoo", name="bart-base"))
    read, made = seen["input_ids"], seen["decoder_input_ids"]
    assert (read["title"], made["title"]) == ("Text input", "Decoder input")
    assert [node["outputs"][0]["shape"]["symbolic"] for node in (read, made)] == [["batch", "source"], ["batch", "seq"]]


def test_what_is_taken_home_is_of_the_last_document_whoever_comes_first(service: Service, browser: Browser) -> None:
    made: list[int] = []
    begun, overtaken = threading.Event(), threading.Event()

    def write(document: Any) -> int:
        layers = int(document.environment["num_hidden_layers"])
        if layers == 16:  # the first is slow
            begun.set()
            overtaken.wait(1)
        else:
            overtaken.set()
        made.append(layers)
        return layers

    first = threading.Thread(target=service.written, args=(browser.name, "code", write))
    first.start()
    assert begun.wait(5)
    browser.ask(type="edit", edits=[{"kind": "set_size", "path": "", "name": "num_hidden_layers", "value": 2}])
    assert service.written(browser.name, "code", write) == 2
    first.join()
    assert service.written(browser.name, "code", write) == 2
    assert made == [16, 2]
