"""Checks of caches and of generation."""

from typing import Any

import torch
import transformers
from transformers import DynamicCache, StaticCache

from conformance.checks import alike, check, generate, logits, padded, run
from conformance.subjects import Subject


@check
def decoding_with_the_cache(subject: Subject) -> None:
    """Tokens one by one, and in pieces, give what they give at once."""
    model, ids = subject.model(), subject.ids()
    whole = logits(model, ids)
    for pieces in ([1] * 12, [5, 4, 3]):
        cache, found = DynamicCache(config=model.config), []
        for piece in ids.split(pieces, dim=1):
            found.append(logits(model, piece, past_key_values=cache, use_cache=True))
        alike(torch.cat(found, 1), whole)
    assert cache.get_seq_length() == 12


@check
def decoding_with_a_static_cache(subject: Subject) -> None:
    """The same with a cache of fixed size."""
    model, ids = subject.model(), subject.ids()
    cache, found = StaticCache(config=model.config, max_cache_len=16), []
    for piece in ids.split([5, 1, 1, 1, 1, 1, 1, 1], dim=1):
        found.append(logits(model, piece, past_key_values=cache, use_cache=True))
    alike(torch.cat(found, 1), logits(model, ids))


@check
def a_cache_can_be_cropped(subject: Subject) -> None:
    """A cache cut back to its first tokens goes on from there."""
    model, ids = subject.model(), subject.ids(2, 7)
    cache = run(model, ids, use_cache=True, past_key_values=DynamicCache()).past_key_values
    cache.crop(-3)
    found = logits(model, ids[:, 4:], past_key_values=cache)
    alike(found, logits(model, ids)[:, 4:])


def _generates_alike(subject: Subject, **options: Any) -> None:
    model, ids = subject.model(), subject.ids(2, 9)
    assert torch.equal(generate(model, ids, **options), generate(model, ids))


@check
def generates_without_a_cache(subject: Subject) -> None:
    """Generation gives the same without a cache."""
    _generates_alike(subject, use_cache=False)


@check
def generates_with_a_static_cache(subject: Subject) -> None:
    """Generation gives the same with cache_implementation="static"."""
    _generates_alike(subject, cache_implementation="static", disable_compile=True)


@check
def generates_with_an_offloaded_cache(subject: Subject) -> None:
    """Generation gives the same with a cache that is kept elsewhere."""
    _generates_alike(subject, cache_implementation="offloaded")


@check
def generates_with_a_quantized_cache(subject: Subject) -> None:
    """Generation runs with a quantized cache."""
    model = subject.model()
    options = {"cache_implementation": "quantized", "cache_config": {"backend": "quanto", "nbits": 4}}
    assert generate(model, subject.ids(), **options).shape == (2, 8)


@check
def generates_with_a_dynamic_cache_of_its_own(subject: Subject) -> None:
    """Generation takes a cache that holds the start already."""
    model, ids = subject.model(), subject.ids(2, 9)
    cache = run(model, ids[:, :6], past_key_values=DynamicCache(config=model.config), use_cache=True).past_key_values
    assert torch.equal(generate(model, ids, past_key_values=cache), generate(model, ids))


@check
def generates_in_pieces(subject: Subject) -> None:
    """Generation gives the same where the prompt is read in pieces."""
    _generates_alike(subject, prefill_chunk_size=4)


@check
def generates_from_a_padded_batch(subject: Subject) -> None:
    """A batch padded on the left generates what its rows do."""
    model, long_row, short_row = subject.model(), subject.ids(1, 9), subject.ids(1, 5, seed=2)
    row, mask = padded(short_row, 4)
    both = generate(model, torch.cat([long_row, row]), attention_mask=torch.cat([torch.ones_like(long_row), mask]))
    assert torch.equal(both[0], generate(model, long_row)[0]) and torch.equal(both[1], generate(model, short_row)[0])


@check
def samples_by_the_seed(subject: Subject) -> None:
    """The same seed samples the same tokens; those of the class of transformers, where the weights are its own."""
    drawn = []
    for model in (subject.model(), subject.model(), *([subject.twin.model()] if subject.twin else [])):
        torch.manual_seed(11)
        drawn.append(generate(model, subject.ids(), do_sample=True, top_k=20, temperature=0.9, num_return_sequences=2))
    assert drawn[0].shape == (4, 8) and all(torch.equal(one, drawn[0]) for one in drawn)


@check
def searches_with_beams(subject: Subject) -> None:
    """Beam search runs, reorders its cache, and finds what it finds without one."""
    model, ids = subject.model(), subject.ids(2, 6)
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5}
    found = generate(model, ids, **options)
    assert torch.equal(found, generate(model, ids, use_cache=False, **options))
    if subject.twin is not None:
        assert torch.equal(found, generate(subject.twin.model(), ids, **options))


@check
def looks_prompts_up(subject: Subject) -> None:
    """Prompt lookup gives the same tokens."""
    model, ids = subject.model(), subject.ids(1, 4).repeat(1, 3)
    assert torch.equal(generate(model, ids, prompt_lookup_num_tokens=3), generate(model, ids))


@check
def is_assisted(subject: Subject) -> None:
    """A smaller model's proposals change no token."""
    model, ids = subject.model(), subject.ids(1)
    helper = subject.model()
    with torch.no_grad():
        for parameter in helper.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    assert torch.equal(generate(model, ids, assistant_model=helper), generate(model, ids))


@check
def generates_from_embeddings(subject: Subject) -> None:
    """Generation starts from embeddings as from tokens."""
    model, ids = subject.model(), subject.ids()
    with torch.no_grad():
        embedded = model.get_input_embeddings()(ids)
    options = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 6,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    assert torch.equal(model.generate(inputs_embeds=embedded, **options), generate(model, ids, max_new_tokens=6))


@check
def generation_records(subject: Subject) -> None:
    """generate gives scores and states on demand."""
    given = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    model = subject.model()
    found = model.generate(
        subject.ids(), return_dict_in_generate=True, output_scores=True, output_hidden_states=True, **given
    )
    assert len(found.scores) == len(found.hidden_states) == 3 and found.sequences.shape == (2, 15)


@check
def makes_a_pipeline(subject: Subject) -> None:
    """transformers.pipeline takes the model with a tokenizer."""
    tokenizer = tiny_tokenizer(subject.text.vocab_size)
    pipe = transformers.pipeline("text-generation", model=subject.model(), tokenizer=tokenizer)
    asked = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    said = pipe("t9 t10 t11", return_tensors=True, **asked)  # as text, special tokens are not shown
    assert len(said[0]["generated_token_ids"]) == len(tokenizer("t9 t10 t11").input_ids) + 4, said


def tiny_tokenizer(vocabulary: int) -> Any:
    """A word for each token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({f"t{i}": i for i in range(vocabulary)}, unk_token="t3"))
    words.pre_tokenizer = Whitespace()
    special = {"pad_token": "t0", "eos_token": "t2", "bos_token": "t1", "unk_token": "t3"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special)
