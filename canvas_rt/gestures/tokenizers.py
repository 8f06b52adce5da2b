"""Tokenizers by name, and how many tokens each knows: what sets a model's vocabulary."""

from collections.abc import Mapping

from canvas_rt.edits import Edit, SetSize, SetTokenizer
from canvas_rt.errors import CanvasError, suggest
from canvas_rt.ir.document import Document
from canvas_rt.ir.frozen import FrozenMap

TOKENIZERS: Mapping[str, int] = {
    "bytes": 256,
    "gpt2": 50257,
    "llama-2": 32000,
    "llama-3": 128256,
    "mistral-v1": 32000,
    "mistral-v3": 32768,
    "mistral-tekken": 131072,
    "smollm": 49152,
}
"""Ids that a model must be able to embed: `vocab_size` in the configs published with each tokenizer."""

UNKNOWN = "not known"


def tokenizer_of(document: Document) -> str:
    """The document's tokenizer by name; `not known` where nobody said."""
    name = document.tokenizer.get("name")
    return name if isinstance(name, str) and name in TOKENIZERS else UNKNOWN


def use_tokenizer(document: Document, name: str) -> tuple[Edit, ...]:
    """Edits that make a tokenizer the document's, and the vocabulary as large as its."""
    if name == UNKNOWN:
        return (SetTokenizer(FrozenMap()),)
    if name not in TOKENIZERS:
        raise CanvasError(f"there is no tokenizer '{name}'", path="tokenizer", hint=suggest(name, TOKENIZERS))
    size = TOKENIZERS[name]
    chosen = SetTokenizer(FrozenMap({"name": name, "vocab_size": size}))
    fits = "vocab_size" not in document.sizes or document.environment.get("vocab_size") == size
    return (chosen,) if fits else (chosen, SetSize("", "vocab_size", size))


def likeliest(document: Document) -> str:
    """The tokenizer that has as many tokens as the document's vocabulary; `not known` where none or several have."""
    size = document.environment.get("vocab_size")
    found = [name for name, tokens in TOKENIZERS.items() if tokens == size]
    return found[0] if len(found) == 1 else UNKNOWN
