"""Write the model card: what a folder holds, how it is loaded, what was done to it, and what was proven."""

import json
from dataclasses import dataclass

from canvas_rt.codegen.plan import Plan
from canvas_rt.ir.document import Document
from canvas_rt.ir.frozen import thaw


@dataclass(frozen=True, slots=True)
class CardNotes:
    """What a model card says beside what the document does."""

    weights: str = ""
    """How each parameter was made; nothing where the folder holds no weights."""

    front: str = ""
    """Lines of YAML: license, base model."""

    certificate: str = ""
    """What was proven of the code."""

    tokenizer: bool = False
    """Whether there is one beside it."""


def title(document: Document) -> str:
    return "".join(c if c.isalnum() or c in " .-_" else "_" for c in document.name)


def card(plan: Plan, notes: CardNotes) -> str:
    """The model card."""
    origin = plan.document.origin
    told = f"`{plan.names.model}`, written by Canvas from {title_of(origin.source) or 'a document'} \
({title_of(origin.architecture) or 'no origin'})."
    proof = "`canvas-rt verify .` proves this code against it."
    return _card(plan.document, notes, told, ", trust_remote_code=True", proof)


def native_card(document: Document, notes: CardNotes) -> str:
    """The model card of a stock architecture."""
    origin = document.origin
    told = f"It still is a `{title_of(origin.architecture)}`: Canvas wrote its config from \
{title_of(origin.source) or 'a document'}, and no code. It runs natively wherever that architecture does."
    return _card(document, notes, told, "", "`canvas-rt verify .` proves transformers' class against it.")


def plain_card(plan: Plan, notes: CardNotes) -> str:
    """The model card of plain code."""
    origin = plan.document.origin
    told = f"`{plan.names.model}` in PyTorch alone, written by Canvas from {title_of(origin.source) or 'a document'} \
({title_of(origin.architecture) or 'no origin'})."
    load = [
        f"from model import {plan.names.model}, Config",
        "",
        f'model = {plan.names.model}(Config.from_json("config.json"))',
    ]
    if notes.weights:
        load = ["from pathlib import Path", "", "from safetensors.torch import load_file", *load]
        load += [
            'for file in Path(".").glob("*.safetensors"):',
            "    model.load_state_dict(load_file(file), strict=False)",
        ]
    return _about(plan.document, notes, told, "\n".join(load), "")


def _card(document: Document, notes: CardNotes, told: str, trust: str, proof: str) -> str:
    auto = document.purpose.auto
    if notes.weights:
        tokenizer = ["", 'tokenizer = AutoTokenizer.from_pretrained(".")'] if notes.tokenizer else [""]
        imported = f"{auto}, AutoTokenizer" if notes.tokenizer else auto
        load = [
            f"from transformers import {imported}",
            *tokenizer,
            f'model = {auto}.from_pretrained("."{trust})',
        ]
    else:
        load = [
            f"from transformers import AutoConfig, {auto}",
            "",
            f'config = AutoConfig.from_pretrained("."{trust})',
            f"model = {auto}.from_config(config{trust})",
        ]
    return _about(document, notes, told, "\n".join(load), f" {proof}")


def _about(document: Document, notes: CardNotes, told: str, load: str, proof: str) -> str:
    """What a model is, how it is loaded, and what was done to it."""
    edits = (
        "\n".join(f"- `{json.dumps(thaw(edit), ensure_ascii=True)}`" for edit in document.log)
        or "None: it is the original."
    )
    front = [f"library_name: {'transformers' if proof else 'pytorch'}", "tags: [canvas]", *notes.front.splitlines()]
    sections = [("Edits since the import", edits)]
    if notes.weights:
        sections.append(
            ("Weights", f"`weights.json` says of each parameter where it is from.\n\n```text\n{notes.weights}\n```")
        )
    if notes.certificate:
        sections.append(("Certificate", f"```text\n{notes.certificate}\n```"))
    head = "\n".join(front)
    rest = "\n".join(f"\n## {heading}\n\n{text}" for heading, text in sections)
    return f"""---
{head}
---

# {title(document)}

{told}{"" if notes.weights else " It has no weights yet."}

```python
{load}
```

`document.canvas.json` is the graph: `canvas-rt show document.canvas.json`.{proof}
{rest}
"""


def title_of(text: str) -> str:
    return "".join(c if c.isalnum() or c in " .-_/" else "_" for c in text)
