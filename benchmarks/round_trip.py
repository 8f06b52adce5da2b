"""Import small variants of each family, emit them and verify what was emitted: how far are the numbers apart?"""

import os
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import canvas_rt
from benchmarks.record import machine, save, table
from canvas_rt.verifier.certificate import Certificate

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 112,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **fields}}


LINEAR = rope("linear", factor=2.0)
DYNAMIC = rope("dynamic", factor=2.0)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16)
LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
ONE, FIVE = {"num_hidden_layers": 1}, {"num_hidden_layers": 5}
EACH, ALL = {"num_key_value_heads": 6}, {"num_key_value_heads": 1}
TIED = {"tie_word_embeddings": True}
BIASED = {"attention_bias": True, "mlp_bias": True}

VARIANTS: dict[str, dict[str, Any]] = {
    "llama: GQA, silu, default rope": {},
    "llama: tied": TIED,
    "llama: biases in attention": {"attention_bias": True},
    "llama: biases in MLP, tied": {**TIED, "mlp_bias": True},
    "llama: all biases, untied, 5 layers": {**BIASED, **FIVE},
    "llama: head_dim 20, gelu": {"head_dim": 20, "hidden_act": "gelu"},
    "llama: MHA": EACH,
    "llama: MHA, linear rope, tied": {**EACH, **LINEAR, **TIED},
    "llama: MQA, gelu_pytorch_tanh": {**ALL, "hidden_act": "gelu_pytorch_tanh"},
    "llama: MQA, head_dim 12, biases, 1 layer": {**ALL, **BIASED, **ONE, "head_dim": 12},
    "llama: linear rope": LINEAR,
    "llama: dynamic rope": DYNAMIC,
    "llama: yarn rope": YARN,
    "llama: llama3 rope": LLAMA3,
    "llama: llama3 rope, tied, head_dim 10, 5 layers": {**LLAMA3, **TIED, **FIVE, "head_dim": 10},
    "llama: yarn rope, MQA, biases, 1 layer": {**YARN, **ALL, **BIASED, **ONE},
    "llama: relu": {"hidden_act": "relu"},
    "mistral: window 5": {"sliding_window": 5},
    "mistral: no window": {"sliding_window": None},
    "mistral: window 4096, tied, head_dim 12": {**TIED, "sliding_window": 4096, "head_dim": 12},
    "mistral: window 5, MQA, 1 layer": {**ALL, **ONE, "sliding_window": 5},
    "mistral: window 5, MHA, gelu, 5 layers": {**EACH, **FIVE, "sliding_window": 5, "hidden_act": "gelu"},
    "mistral: no window, linear rope": {**LINEAR, "sliding_window": None},
    "mistral: window 5, dynamic rope": {**DYNAMIC, "sliding_window": 5},
    "mistral: no window, yarn rope": {**YARN, "sliding_window": None},
    "mistral: window 5, llama3 rope, tied": {**LLAMA3, **TIED, "sliding_window": 5},
}


def round_trip(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """One variant's certificate, or why there is none."""
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    try:
        document, _ = canvas_rt.import_model({"model_type": name.partition(":")[0], **SMALL, **changes})
        found = certified(canvas_rt.verify(document))
    except Exception as error:  # a row of its own: one variant says nothing of the others
        found = {"passed": False, "failed": f"{type(error).__name__}: {error}"[:300]}
    seconds = {"wall_s": round(time.perf_counter() - start, 1), "cpu_s": round(sum(os.times()[:4]) - cpu, 1)}
    print(name, found.get("failed", found["passed"]), seconds, flush=True)
    return {"variant": name, "config": changes, **found, **seconds}


def certified(certificate: Certificate) -> dict[str, Any]:
    return {
        "passed": certificate.passed,
        "label": certificate.label,
        "reference": certificate.reference,
        "sizes": dict(certificate.sizes),
        **{name: finding.to_json() for name, finding in certificate.findings.items()},
    }


def line(row: dict[str, Any]) -> list[str]:
    seconds = [f"{row['cpu_s']:.1f}"]
    if "failed" in row:
        return [row["variant"], row["failed"].replace("|", "\\|"), *["–"] * 5, *seconds]
    marks = {True: "passed", False: "FAILED", None: "not run"}
    passed = [marks[row[name]["passed"]] for name in ("structure", "keys")]
    return [
        row["variant"],
        *passed,
        *(apart(row[n]) for n in ("logits", "gradients", "decoding")),
        row["label"],
        *seconds,
    ]


def apart(finding: dict[str, Any]) -> str:
    worst = finding["max_abs_diff"]
    said = "–" if worst is None else "0" if worst == 0 else f"{worst:.1e}"
    return said if finding["passed"] else f"{said} FAILED: {finding['detail']}"


def main() -> None:
    about = machine()
    rows = [round_trip(name, changes) for name, changes in VARIANTS.items()]
    headings = ["variant", "structure", "keys", "logits", "gradients", "decoding", "label", "CPU s"]
    exact = sum(
        row["passed"] and row["logits"]["max_abs_diff"] == row["gradients"]["max_abs_diff"] == 0 for row in rows
    )
    save(
        "round_trip",
        "Round trips: import, emit, verify",
        {"machine": about, "config": SMALL, "rows": rows},
        [
            f"{sum(row['passed'] for row in rows)} of {len(rows)} variants pass every check; in {exact} of them logits "
            "and gradients equal transformers' own class to the last bit (fp32, CPU, one thread, SDPA and eager). "
            "Columns are max |Δ|; decoding compares steps with the cache against one pass without it, where 1e-5 is "
            "allowed. CPU s: import, emit and verify together, the verifying process included.",
            table(headings, map(line, rows)),
            "Where nothing else is said: 2 layers, 6 query and 2 key/value heads, hidden size 48. Numbers are compared "
            "at the sizes that `verify` chooses (in the JSON).",
        ],
    )


if __name__ == "__main__":
    main()
