"""The tokenizer that comes with a bundle: the weights' own, or byte-level BPE trained on the data."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from canvas_rt.errors import CanvasError
from canvas_rt.training.data import Data
from canvas_rt.weights.package import BROUGHT

END = "<|end|>"
"""Stands between documents in a tokenizer that is trained here; its id is 0."""

BYTES = 256
LEAST = BYTES + 1
"""Tokens that byte-level BPE has at least: each byte, and the end."""

MOST = 32_768
EACH = 128
"""Bytes of data for each token that a tokenizer learns: rarer ones would hardly be seen."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenizer, and what it makes of the data."""

    folder: Path | None
    """Where it is from; None where it was trained on the data."""

    tokenizer: Any
    size: int
    """Ids that a model must have a place for."""

    special: Mapping[str, int | None]
    """Ids as a config names them: `bos_token_id`, `eos_token_id`, `pad_token_id`."""

    count: int
    """Tokens of the data, estimated from the sample; 0 where nobody knows how much data there is."""

    entropy: float
    """Nats a token, for one who knows only how often each is there."""

    def write(self, folder: Path) -> None:
        """Put its files into a folder."""
        if self.folder is None:
            self.tokenizer.save_pretrained(folder)
            return
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and BROUGHT.fullmatch(path.name) and not path.name.startswith(("LICENSE", "NOTICE")):
                (folder / path.name).write_bytes(path.read_bytes())


def trained(data: Data, vocabulary: int) -> Tokens:
    """Byte-level BPE of the data, with no more tokens than a model of that vocabulary has a place for.

    Raises `CanvasError` for a vocabulary that cannot hold every byte.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocabulary < LEAST:
        raise CanvasError(
            f"{vocabulary} tokens are too few for a tokenizer of bytes, which has {LEAST} and more",
            path="vocab_size",
            hint="Set vocab_size to 512 or more, or name a tokenizer.",
        )
    known = sum(len(text.encode("utf-8", "replace")) for text in data.sample)
    size = min(vocabulary, MOST, max(2 * BYTES, known // EACH))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    teacher = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(data.sample, teacher)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=END)
    return _counted(None, tokenizer, data)


def brought(folder: Path, data: Data, vocabulary: int) -> Tokens:
    """The tokenizer of a model folder. It runs no code. Raises `CanvasError` where there is none that the model can use."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not has_tokenizer(folder):
        raise CanvasError("holds no tokenizer", path=str(folder), hint="Name a folder with a tokenizer.json.")
    try:
        kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
        tokenizer = kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        found = _counted(folder, tokenizer, data)
    except CanvasError:
        raise
    except Exception as error:  # whatever the files make transformers raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CanvasError(f"holds a tokenizer that cannot be used: {reason}", path=str(folder)) from error
    if found.size > vocabulary:
        raise CanvasError(
            f"its tokenizer has {found.size:,} tokens, the model a place for {vocabulary:,}",
            path=str(folder),
            hint=f"Set vocab_size to {found.size} or more, or leave the tokenizer out: one is trained on the data then.",
        )
    if found.special["eos_token_id"] is None:
        raise CanvasError("its tokenizer has no token for the end of a text", path=str(folder))
    return found


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def _counted(folder: Path | None, tokenizer: Any, data: Data) -> Tokens:
    counts: Counter[int] = Counter()
    texts = [text for text in data.sample if text]
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        counts.update(ids)
    total = sum(counts.values())
    if not total:
        raise CanvasError("is no token long", path=", ".join(map(str, data.files)), hint="Name files with more text.")
    known = sum(len(text.encode("utf-8", "replace")) for text in texts)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return Tokens(
        folder,
        tokenizer,
        max(len(tokenizer), max(counts) + 1),
        special,
        round(total * data.bytes / known),
        -sum(n / total * log(n / total) for n in counts.values()),
    )
