"""The certificate: what was claimed of emitted code, what was run to prove it, and what came out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    passed: bool | None
    """None where the check could not be made here; `detail` says why."""

    detail: str
    max_abs_diff: float | None = None
    """The largest difference of any number compared; None where no numbers are."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Six checks of emitted code, made in a process of its own from the emitted files alone."""

    structure: Finding
    """Importing the emitted code gives the document again."""

    keys: Finding
    """Parameters have the document's names, shapes and ties, and survive saving and loading."""

    logits: Finding
    """The same logits as the reference, in fp32 on the CPU."""

    gradients: Finding
    """The same gradients."""

    decoding: Finding
    """Decoding with the cache gives what decoding without it gives, token by token."""

    gpu: Finding
    """The same in bf16 on a GPU, within the tolerance that bf16 has."""

    reference: str
    """Against what logits and gradients were held."""

    label: str
    """`identical` to the origin, `function-preserving`, or `changed`."""

    change: str
    """What tells the model from its origin."""

    sizes: Mapping[str, int]
    """The sizes at which numbers were compared: small, unlike one another, with random weights."""

    versions: Mapping[str, str]

    @property
    def findings(self) -> Mapping[str, Finding]:
        return {field.name: getattr(self, field.name) for field in fields(self)[:6]}

    @property
    def passed(self) -> bool:
        return all(finding.passed is not False for finding in self.findings.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            **{name: finding.to_json() for name, finding in self.findings.items()},
            "reference": self.reference,
            "label": self.label,
            "change": self.change,
            "sizes": dict(self.sizes),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Certificate":
        values: dict[str, Any] = {field.name: data[field.name] for field in fields(cls)}
        for name in [field.name for field in fields(cls)][:6]:
            values[name] = Finding(**values[name])
        return cls(**values)

    def __str__(self) -> str:
        marks = {True: "passed", False: "FAILED", None: "not run"}
        width = max(map(len, self.findings))
        lines = [f"{n:{width}}  {marks[f.passed]:7}  {f.detail}" for n, f in self.findings.items()]
        verdict = "proved" if self.passed else "NOT proved"
        return "\n".join([*lines, f"{verdict} against {self.reference}; {self.label}: {self.change}"])
