"""Checks of losses, gradients and the libraries that train, and of vocabularies that grow."""

import copy
import tempfile
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from conformance.checks import alike, check, folder, gradients, logits, long, run, same
from conformance.generating import tiny_tokenizer
from conformance.subjects import Subject


@check
def the_loss_is_cross_entropy(subject: Subject) -> None:
    """The loss is the mean cross entropy of what comes next (or stands there), of labels that are not -100."""
    model, ids = subject.model(), subject.ids()
    labels = ids.clone()
    labels[0, :5] = -100
    found = run(model, ids, labels=labels)
    scores, wanted = found.logits, labels
    if hasattr(model, "generate") and model.can_generate():
        scores, wanted = scores[:, :-1], labels[:, 1:]
    expected = nn.functional.cross_entropy(scores.flatten(0, 1).float(), wanted.flatten())
    torch.testing.assert_close(found.loss, expected)


@check
def the_loss_is_shared_over_a_batch(subject: Subject) -> None:
    """num_items_in_batch divides the sum of losses: so gradients accumulate rightly."""
    model, ids = subject.model(), subject.ids()
    plain = run(model, ids, labels=ids).loss
    shared = run(model, ids, labels=ids, num_items_in_batch=torch.tensor(44)).loss
    count = ids.numel() - len(ids) * model.can_generate()
    torch.testing.assert_close(shared * 44, plain * count)
    assert transformers.Trainer(model=model, args=arguments()).model_accepts_loss_kwargs


@check
def experts_are_balanced(subject: Subject) -> None:
    """output_router_logits gives what routers said of each token, and a loss of uneven choices that is added to the loss."""
    model, ids = subject.model(), subject.ids()
    found = run(model, ids, labels=ids, output_router_logits=True)
    factor = model.config.get_text_config().router_aux_loss_coef
    assert len(found.router_logits) > 0 and found.router_logits[0].shape[0] == ids.numel()
    torch.testing.assert_close(
        found.loss, run(model, ids, labels=ids, output_router_logits=False).loss + factor * found.aux_loss
    )
    if subject.twin is not None:
        theirs = run(subject.twin.model(), ids, labels=ids, output_router_logits=True)
        alike(found.aux_loss, theirs.aux_loss)
        for one, other in zip(found.router_logits, theirs.router_logits, strict=True):
            alike(one, other)


@check
def every_parameter_learns(subject: Subject) -> None:
    """A step reaches the parameters that it reaches in the class of transformers: all, but for experts that no token chose."""
    model = subject.model().train()
    ids = subject.ids(4, 24)
    model(input_ids=ids, labels=ids).loss.backward()
    missing = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not missing
    assert all(torch.isfinite(value).all() for value in gradients(model).values())


@check
def recomputing_gives_the_same_gradients(subject: Subject) -> None:
    """activation_checkpointing_enable, in both of its kinds, changes no gradient and no loss."""
    ids, found = subject.ids(), []
    for options in (None, {"use_reentrant": False}, {"use_reentrant": True}):
        model = subject.model().train()
        if options is not None:
            model.activation_checkpointing_enable(options)
            assert model.is_gradient_checkpointing
            if options["use_reentrant"]:
                model.enable_input_require_grads()
        torch.manual_seed(3)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        found.append(gradients(model))
    same(found[1], found[0])
    same(found[2], found[0])
    model.activation_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@check
def recomputing_runs_layers_again(subject: Subject) -> None:
    """The old name, gradient_checkpointing_enable, does recompute: each layer runs twice."""
    model, calls = subject.model().train(), []
    layer = next(m for m in model.modules() if isinstance(m, transformers.modeling_layers.GradientCheckpointingLayer))
    next(layer.children()).register_forward_pre_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable()
    model(input_ids=subject.ids(), labels=subject.ids(), use_cache=False).loss.backward()
    assert len(calls) > 1


@check
def dropout_is_of_training_alone(subject: Subject) -> None:
    """Attention's dropout is drawn in training, and not in evaluation."""
    config = subject.config
    config.get_text_config().attention_dropout = 0.5
    if not hasattr(type(config)(), "attention_dropout"):
        pytest.skip("the config has no attention_dropout")
    torch.manual_seed(0)
    model = subject.auto_class.from_config(config, **({"trust_remote_code": True} if subject.document else {}))
    ids = subject.ids()
    assert not torch.equal(logits(model.train(), ids), logits(model, ids))
    alike(logits(model.eval(), ids), logits(model, ids))


def arguments(where: str = "", **options: Any) -> transformers.TrainingArguments:
    """For a run of two steps."""
    return transformers.TrainingArguments(
        output_dir=where or tempfile.gettempdir(),
        per_device_train_batch_size=2,
        max_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        **{"save_strategy": "no", **options},
    )


def examples(subject: Subject) -> list[dict[str, list[int]]]:
    return [{"input_ids": row, "labels": row} for row in subject.ids(8, 10).tolist()]


@long
@check
def trainer_trains(subject: Subject) -> None:
    """Trainer takes two accumulated, recomputed steps, writes a checkpoint, and that loads."""
    model = subject.model()
    before = copy.deepcopy(model.state_dict())
    with folder() as where:
        given = arguments(
            str(where),
            gradient_accumulation_steps=2,
            save_strategy="steps",
            save_steps=2,
            gradient_checkpointing=True,
            learning_rate=1e-2,
        )
        trainer = transformers.Trainer(
            model=model, args=given, train_dataset=examples(subject), data_collator=transformers.default_data_collator
        )
        result = trainer.train()
        assert 0 < result.training_loss < 20
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert len(changed) > len(before) // 2
        again = subject.load(where / "checkpoint-2")
        alike(logits(again, subject.ids()), logits(model.eval(), subject.ids()))


@long
@check
def sft_trainer_trains(subject: Subject) -> None:
    """TRL's SFTTrainer takes two steps, gradients recomputed."""
    trl = pytest.importorskip("trl")
    pyarrow = pytest.importorskip("pyarrow")
    from datasets import Dataset

    rows = Dataset(pyarrow.table({"input_ids": subject.ids(8, 10).tolist()}), fingerprint="rows")
    with folder() as where:
        given = trl.SFTConfig(
            output_dir=str(where),
            max_steps=2,
            per_device_train_batch_size=2,
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            save_strategy="no",
            gradient_checkpointing=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        words = tiny_tokenizer(subject.text.vocab_size)
        trainer = trl.SFTTrainer(model=subject.model(), args=given, train_dataset=rows, processing_class=words)
        assert 0 < trainer.train().training_loss < 20


@long
@check
def adapters_train_alone(subject: Subject) -> None:
    """PEFT's all-linear LoRA: a step changes adapters and nothing else; merged, they compute the same; saved, they load."""
    import peft

    model, ids = subject.model(), subject.ids()
    base = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM" if model.can_generate() else None),
    )
    optimizer = torch.optim.SGD(adapted.parameters(), lr=0.5)
    adapted.train()
    for _ in range(2):
        adapted(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    moved = {name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved and all("lora_" in name for name in moved)
    for name, value in adapted.base_model.model.state_dict().items():
        known = name.replace(".base_layer", "")
        if "lora_" not in name:
            assert torch.equal(value, base[known]), name
    adapted.eval()
    expected = logits(adapted, ids)
    assert not torch.equal(expected, logits(subject.model(), ids))
    with folder() as saved:
        adapted.save_pretrained(saved)
        again = peft.PeftModel.from_pretrained(subject.model(), saved).eval()
        alike(logits(again, ids), expected)
    torch.testing.assert_close(logits(adapted.merge_and_unload(), ids), expected, rtol=1e-3, atol=1e-3)


@check
def the_vocabulary_can_be_resized(subject: Subject) -> None:
    """More tokens, or fewer: embedding, head and config go along, ties hold, old scores stay, and it saves and loads."""
    ids = subject.ids().clamp(max=60)
    for size in (subject.text.vocab_size + 14, 64):
        model = subject.model()
        before = logits(model, ids)
        model.resize_token_embeddings(size)
        after = logits(model, ids)
        kept = min(size, before.shape[-1])
        assert after.shape[-1] == size == model.config.get_text_config().vocab_size
        alike(after[..., :kept], before[..., :kept])
        assert run(model, ids, labels=ids).loss.isfinite()
        with folder() as saved:
            model.save_pretrained(saved)
            alike(logits(subject.load(saved), ids), after)


@check
def the_vocabulary_can_be_padded(subject: Subject) -> None:
    """pad_to_multiple_of rounds the vocabulary up."""
    model = subject.model()
    model.resize_token_embeddings(subject.text.vocab_size + 1, pad_to_multiple_of=16, mean_resizing=False)
    assert model.get_input_embeddings().weight.shape[0] % 16 == 0


@check
def embeddings_can_be_replaced(subject: Subject) -> None:
    """Input and output embeddings can be read and set."""
    model, ids = subject.model(), subject.ids()
    other = copy.deepcopy(model.get_input_embeddings())
    with torch.no_grad():
        other.weight.mul_(2)
    before = logits(model, ids)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other and not torch.equal(logits(model, ids), before)
    head = copy.deepcopy(model.get_output_embeddings())
    assert head is not None
    model.set_output_embeddings(head)
    assert model.get_output_embeddings() is head
