"""What a model is for: what it takes, what it gives, and what can be asked of it. All else follows from its graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

TaskName = Literal["causal_lm", "masked_lm", "image_classification", "seq2seq_lm"]


@dataclass(frozen=True, slots=True)
class Task:
    """One task, in transformers' own terms."""

    name: TaskName
    auto: str
    """The class of transformers that loads such a model, whatever its architecture."""

    ending: str
    """How the class names of such models end."""

    takes: str
    """The input of the whole model: `input_ids` [batch, seq], or `pixel_values` [batch, channels, height, width]."""

    gives: str
    """The class of transformers' outputs."""

    words: str
    """What people call such a model, with its article."""

    decodes: str = ""
    """What its decoder takes [batch, seq], where an encoder reads what the model takes [batch, source]; else nothing."""

    mapping: str = ""
    """What transformers calls such models in its tables, where that is not the task's own name."""

    also: tuple[str, ...] = ()
    """What its class may take beside that, of the same shape; left out, it is zeros."""

    classifies: bool = False
    """Whether it gives one score for each of a config's labels."""

    generates: bool = False
    """Whether it goes on with a text, token by token, and so has a cache and never looks ahead."""

    @property
    def of_tokens(self) -> bool:
        """Whether it takes tokens, and gives scores for each."""
        return self.takes == "input_ids"

    @property
    def run_time(self) -> tuple[str, ...]:
        """Names that stand for what a run is given: how many sequences, and how long they are."""
        if self.decodes:
            return "batch", "seq", "source"
        return ("batch", "seq") if self.of_tokens else ("batch",)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "causal_lm",
            "AutoModelForCausalLM",
            "ForCausalLM",
            "input_ids",
            "CausalLMOutputWithPast",
            "a causal language model",
            generates=True,
        ),
        Task(
            "masked_lm",
            "AutoModelForMaskedLM",
            "ForMaskedLM",
            "input_ids",
            "MaskedLMOutput",
            "a masked language model",
            also=("token_type_ids",),
        ),
        Task(
            "image_classification",
            "AutoModelForImageClassification",
            "ForImageClassification",
            "pixel_values",
            "ImageClassifierOutput",
            "an image classifier",
            classifies=True,
        ),
        Task(
            "seq2seq_lm",
            "AutoModelForSeq2SeqLM",
            "ForConditionalGeneration",
            "input_ids",
            "Seq2SeqLMOutput",
            "an encoder-decoder language model",
            decodes="decoder_input_ids",
            mapping="seq_to_seq_causal_lm",
            generates=True,
        ),
    )
}
"""Every task, the usual one first."""

CAUSAL_LM = TASKS["causal_lm"]

assert tuple(TASKS) == get_args(TaskName)


def task_of_class(name: str) -> Task:
    """The task of a class by its name, as transformers itself tells a model's loss."""
    return next((task for task in TASKS.values() if name.endswith(task.ending)), CAUSAL_LM)


__all__ = ["CAUSAL_LM", "TASKS", "Task", "TaskName", "task_of_class"]
