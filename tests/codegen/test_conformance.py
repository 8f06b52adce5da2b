"""Every check of the Hugging Face contract, of emitted models: four on every commit, all of Tier 1 and all edits with -m slow."""

from collections.abc import Callable, Iterator

import pytest
import torch
from conformance import CHECKS, LONG, SLOW, verdict
from conformance.subjects import Subject, of_family, subject_of
from edit_kinds import EDITS

from canvas_rt import Document, apply
from canvas_rt.edits import SetAttr, SetSize

pytestmark = pytest.mark.filterwarnings("ignore")  # libraries warn of themselves, and of tiny models

FIRST = "llama"
"""Every check applies to it."""

UNLIKE = "mistral, unlike layers"
APART = (
    SetSize("model.layers.1.self_attn", "num_key_value_heads", 1),
    SetAttr("model.layers.0.self_attn.attention", "window", None),
)
"""What makes them so."""

FAST = (FIRST, "qwen3_moe", "gpt_oss", UNLIKE)
"""A plain model; a mixture of experts; windows in turn, sinks and biased experts; sizes and windows of single layers."""

TIER_ONE = (
    *FAST,
    "qwen2",
    "qwen3",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "mistral",
    "gemma3_text",
    "deepseek_v3",
    "phi3",
    "gpt2",
    "bert",
)
OF_EXPERTS = ("experts_are_balanced",)
SHORT = {
    (
        "bert",
        "embeddings_in_place_of_tokens",
    ): "its tokens are embedded within a block, which inputs_embeds cannot stand in for",
    (
        "bert",
        "empty_then_loaded",
    ): "a bias that it shares lies in the checkpoint under the original's name, which accelerate's loader does not change",
    ("edit: probabilities for logits", "the_vocabulary_can_be_resized"): "shares of more tokens are smaller",
}
"""Where an emitted model falls short of the class of transformers, and why."""

NEEDED = ("Torch not compiled with CUDA", "ImportError", "could not import")
"""What a Llama may lack here: a card, or a package that is no dependency of Canvas."""

Make = Callable[[str], tuple[Subject, Subject]]


def grid() -> Iterator[object]:
    for subject in (*TIER_ONE, *(f"edit: {name}" for name in EDITS)):
        for name in CHECKS:
            often = subject in FAST and name not in SLOW and (subject == FIRST or name not in LONG)
            yield pytest.param(subject, name, id=f"{subject}-{name}", marks=[] if often else [pytest.mark.slow])


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Make:
    """An emitted model beside the class of transformers that it comes from; the last one is kept."""
    kept: dict[str, tuple[Subject, Subject]] = {}

    def made(name: str) -> tuple[Subject, Subject]:
        if name not in kept:
            kept.clear()
            where = tmp_path_factory.mktemp("conformance")
            if name == UNLIKE:
                mistral = of_family("mistral")
                kept[name] = subject_of(apply(mistral, *APART), where, origin=mistral)
            elif name in TIER_ONE:
                kept[name] = subject_of(of_family(name), where)
            else:
                llama: Document = request.getfixturevalue("small_llama")
                kept[name] = subject_of(apply(llama, *EDITS[name.removeprefix("edit: ")]), where, origin=llama)
        return kept[name]

    return made


@pytest.mark.parametrize(("subject", "name"), [*grid()])
def test_an_emitted_model_does_what_transformers_own_does(subject: str, name: str, make: Make) -> None:
    if (subject, name) in SHORT:
        pytest.xfail(SHORT[subject, name])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = verdict(name, *make(subject))
    finally:
        torch.set_num_threads(threads)
    assert subject != FIRST or found.passed or name in OF_EXPERTS or any(reason in found.why for reason in NEEDED), (
        found.why
    )
    if found.passed is None:
        pytest.skip(found.why)


def test_every_check_says_what_it_asks() -> None:
    assert len(CHECKS) > 30
    assert all(check.__doc__ for check in CHECKS.values())
