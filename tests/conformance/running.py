"""Checks of what a model takes and gives: outputs, masks, kinds of attention, compilers."""

import inspect
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from conformance.checks import alike, check, logits, long, padded, run, slow
from conformance.subjects import Subject


@check
def fields_and_tuples(subject: Subject) -> None:
    """return_dict=False gives the same in a tuple."""
    model, ids = subject.model(), subject.ids()
    assert torch.equal(run(model, ids, return_dict=False)[0], logits(model, ids))


@check
def embeddings_in_place_of_tokens(subject: Subject) -> None:
    """inputs_embeds gives what the tokens give; both at once, or none, are refused."""
    model, ids = subject.model(), subject.ids()
    with torch.no_grad():
        embedded = model.get_input_embeddings()(ids)
        alike(model(inputs_embeds=embedded).logits, logits(model, ids))
    with pytest.raises((ValueError, TypeError)):
        model(input_ids=ids, inputs_embeds=embedded)
    with pytest.raises((ValueError, TypeError)):
        model()


@check
def last_logits_alone(subject: Subject) -> None:
    """logits_to_keep gives the last rows, or those that are named."""
    model, ids = subject.model(), subject.ids()
    assert "logits_to_keep" in inspect.signature(model.forward).parameters
    whole = logits(model, ids)
    alike(logits(model, ids, logits_to_keep=2), whole[:, -2:])
    alike(logits(model, ids, logits_to_keep=torch.tensor([0, 3])), whole[:, [0, 3]])


@check
def hidden_states_are_recorded(subject: Subject) -> None:
    """output_hidden_states gives the embedding's output and each layer's, the last of them normed."""
    model, ids = subject.model(), subject.ids()
    found = run(model, ids, output_hidden_states=True).hidden_states
    assert len(found) == model.config.get_text_config().num_hidden_layers + 1
    alike(found[-1], run(model.base_model, ids)[0])
    assert run(model, ids).hidden_states is None
    if subject.twin is not None:
        for ours, theirs in zip(
            found, run(subject.twin.model(), ids, output_hidden_states=True).hidden_states, strict=True
        ):
            alike(ours, theirs)


@check
def attentions_are_recorded(subject: Subject) -> None:
    """output_attentions gives weights that sum to one, as eager attention has them."""
    model, ids = subject.model(), subject.ids()
    model.set_attn_implementation("eager")
    found = run(model, ids, output_attentions=True).attentions
    assert found and all(a.shape[0] == 2 and a.shape[-2:] == (12, 12) for a in found)
    assert all((a.sum(-1) < 1 + 1e-4).all() for a in found)
    if subject.twin is not None:
        twin = subject.twin.model()
        twin.set_attn_implementation("eager")
        for ours, theirs in zip(found, run(twin, ids, output_attentions=True).attentions, strict=True):
            alike(ours, theirs)


@check
def recording_by_the_config(subject: Subject) -> None:
    """config.output_hidden_states asks for the same."""
    model = subject.model()
    model.config.output_hidden_states = True
    assert run(model, subject.ids()).hidden_states is not None


@check
def the_cache_is_given_when_asked(subject: Subject) -> None:
    """use_cache decides whether a cache comes back, and the config where nothing is said."""
    model, ids = subject.model(), subject.ids()
    assert run(model, ids, use_cache=False).past_key_values is None
    assert run(model, ids, use_cache=True).past_key_values.get_seq_length() == 12
    model.config.use_cache = False
    assert run(model, ids).past_key_values is None


@check
def unknown_arguments_reach_attention(subject: Subject) -> None:
    """What forward does not know is handed down to attention: so vLLM passes what it knows of its batch."""
    model, seen = subject.model(), []

    def spy(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **given: Any
    ) -> tuple[Tensor, None]:
        seen.append((module, given))
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(2, 3) * given["scaling"]
        if mask is not None:
            scores = scores + mask
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    AttentionInterface.register("canvas_test", spy)
    AttentionMaskInterface.register("canvas_test", transformers.masking_utils.eager_mask)
    expected = logits(model, subject.ids())
    model.set_attn_implementation("canvas_test")
    found = logits(model, subject.ids(), batch_of_mine="told")
    assert seen and all(given.get("batch_of_mine") == "told" for _, given in seen)
    assert all(isinstance(module.is_causal, bool) for module, _ in seen)
    assert model.is_backend_compatible()
    if not any("s_aux" in given or given.get("softcap") is not None for _, given in seen):
        alike(found, expected)


@check
def attention_modules_say_what_servers_read(subject: Subject) -> None:
    """Where a key/value head serves several queries' heads, modules say how many, what scales scores, and their place."""
    model, seen = subject.model(), []

    def spy(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **given: Any
    ) -> tuple[Tensor, None]:
        seen.append((module, query.shape[1] // key.shape[1], given))
        return query.new_zeros(*query.transpose(1, 2).shape[:3], value.shape[-1]), None

    AttentionInterface.register("canvas_test", spy)
    AttentionMaskInterface.register("canvas_test", transformers.masking_utils.sdpa_mask)
    model.set_attn_implementation("canvas_test")
    run(model, subject.ids())
    for module, groups, given in seen:
        assert getattr(module, "num_key_value_groups", 1) == groups
        assert given["scaling"] == pytest.approx(module.scaling)
        assert isinstance(module.layer_idx, int)


@check
def left_padding_changes_nothing(subject: Subject) -> None:
    """Padding on the left, with positions that leave it out, gives the scores of the row alone."""
    model, ids = subject.model(), subject.ids(1)
    row, mask = padded(ids, 4)
    given = (
        {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        if "position_ids" in inspect.signature(model.forward).parameters
        else {}
    )
    alike(logits(model, row, attention_mask=mask, **given)[:, 4:], logits(model, ids))


@check
def right_padding_changes_nothing(subject: Subject) -> None:
    """Padding on the right gives the scores of the row alone."""
    model, ids = subject.model(), subject.ids(1)
    row, mask = padded(ids, 4, left=False)
    alike(logits(model, row, attention_mask=mask)[:, :-4], logits(model, ids))


@check
def a_batch_is_its_rows(subject: Subject) -> None:
    """A padded batch of unequal rows gives what each gives alone."""
    model, long_row, short_row = subject.model(), subject.ids(1, 12), subject.ids(1, 7, seed=2)
    row, mask = padded(short_row, 5, left=False)
    batch, masks = torch.cat([long_row, row]), torch.cat([torch.ones_like(long_row), mask])
    found = logits(model, batch, attention_mask=masks)
    alike(found[:1], logits(model, long_row))
    alike(found[1:, :7], logits(model, short_row))


@check
def a_whole_mask_changes_nothing(subject: Subject) -> None:
    """A mask that hides nothing is as good as none."""
    model, ids = subject.model(), subject.ids()
    alike(logits(model, ids, attention_mask=torch.ones_like(ids)), logits(model, ids))


@check
def packed_rows_stay_apart(subject: Subject) -> None:
    """Texts in one row, told by positions that start again, give what each gives alone."""
    model, first, second = subject.model(), subject.ids(1, 7), subject.ids(1, 5, seed=2)
    positions = torch.cat([torch.arange(7), torch.arange(5)])[None]
    found = logits(model, torch.cat([first, second], 1), position_ids=positions, use_cache=False)
    alike(found, torch.cat([logits(model, first), logits(model, second)], 1))


@check
def a_mask_of_four_dimensions(subject: Subject) -> None:
    """A mask that is made already is taken as it is."""
    model, ids = subject.model(), subject.ids(2, 4)  # no more than a window shows
    model.set_attn_implementation("sdpa")
    seen = torch.ones(4, 4, dtype=torch.bool).tril()[None, None].expand(2, 1, 4, 4)
    alike(logits(model, ids, attention_mask=seen), logits(model, ids))


@check
def eager_and_sdpa_agree(subject: Subject) -> None:
    """Both kinds of attention give the same scores, with padding too, chosen at loading or later."""
    ids, mask = padded(subject.ids(), 3)
    found = []
    for kind in ("eager", "sdpa"):
        model = subject.load(subject.folder, attn_implementation=kind)
        assert model.config._attn_implementation == kind
        found.append(logits(model, ids, attention_mask=mask)[:, 3:])
        later = subject.model()
        later.set_attn_implementation(kind)
        alike(logits(later, ids, attention_mask=mask)[:, 3:], found[-1])
    alike(*found)


@slow
@check
def flex_attention_agrees(subject: Subject) -> None:
    """FlexAttention gives the same scores."""
    ids = subject.ids(2, 16)
    model = subject.model()
    expected = logits(model, ids)
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(logits(model, ids), expected, rtol=1e-3, atol=1e-3)


@long
@check
def exports(subject: Subject) -> None:
    """torch.export gives a program that computes the same."""
    model, ids = subject.model(), subject.ids()
    program = torch.export.export(
        model, (), {"input_ids": ids, "use_cache": False} if model.can_generate() else {"input_ids": ids}, strict=False
    )
    given = {"input_ids": subject.ids(seed=5), **({"use_cache": False} if model.can_generate() else {})}
    with torch.no_grad():
        alike(program.module()(**given).logits, model(**given).logits)


@long
@check
def compiles(subject: Subject) -> None:
    """torch.compile follows the whole model without a break."""
    torch._dynamo.reset()
    model, ids = subject.model(), subject.ids()
    given = {"use_cache": False} if model.can_generate() else {}
    expected = logits(model, ids, **given)
    compiled = torch.compile(model, backend="eager", fullgraph=bool(getattr(model, "_can_compile_fullgraph", False)))
    alike(logits(compiled, ids, **given), expected)
    torch._dynamo.reset()
