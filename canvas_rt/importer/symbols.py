"""Express the numbers of a traced model in its config's fields, from a few traces at unlike sizes."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from canvas_rt.ir.expressions import parse
from canvas_rt.ir.frozen import freeze
from canvas_rt.ops.catalogue import ACTIVATIONS

PROBES = 3
"""Traces that a number must agree in. The values are unlike, so a chance agreement in all three does not happen."""

Assignment = Mapping[str, Any]

UNPROBED = ("num_hidden_layers", "initializer_range", "pretraining_tp")
"""Numbers that shape no tensor of a layer: depth becomes a stack's count, the others act at initialisation or not at all."""


def probe_assignments(
    config: Mapping[str, Any], pinned: Collection[str] = (), overrides: Collection[Mapping[str, Any]] = ()
) -> tuple[dict[str, Any], ...]:
    """Small, valid and mutually unlike values for every number in a config; those in `pinned` keep theirs.

    Query heads stay a multiple of key/value heads, hidden_size an even multiple of query heads, and head_dim even. Other
    integers, `overrides` of layers included, stay in order: experts chosen for a token are not more than there are.
    """
    names = [name for name, value in config.items() if is_probed(name, value)]
    kept = {name: config[name] for name in names if name in pinned}
    ranks = _ranks(config, overrides)
    return tuple({**_assignment(names, config, probe, ranks), **kept} for probe in range(PROBES))


def probe_override(
    name: str, value: int, probe: int, config: Mapping[str, Any], overrides: Collection[Mapping[str, Any]]
) -> int | None:
    """The value in a probe of a size that layers have for themselves; None where it goes by what it is called."""
    rank = _ranks(config, overrides).get((name, value))
    return None if rank is None else _unlike(rank, probe)


Ranks = Mapping[tuple[str, int], int]


def _ranks(config: Mapping[str, Any], overrides: Collection[Mapping[str, Any]]) -> Ranks:
    """Integers without a rule of their own, smallest first."""
    order = {name: index for index, name in enumerate(config)}
    found = {
        (name, value)
        for table in (config, *overrides)
        for name, value in table.items()
        if isinstance(value, int) and is_probed(name, value) and name not in _known(0)
    }
    return {
        pair: rank for rank, pair in enumerate(sorted(found, key=lambda pair: (pair[1], order.get(pair[0], 0), pair)))
    }


def _unlike(rank: int, probe: int) -> int:
    return 2 * (17 + 23 * probe + 7 * rank) + probe


def is_probed(name: str, value: Any) -> bool:
    """Whether a config value is a number that a graph may depend on."""
    if isinstance(value, bool) or not isinstance(value, int | float) or name in UNPROBED:
        return False
    if name == "pad_token_id":  # it is the embedding's padding_idx; a negative one counts from the end
        return value >= 0
    return not name.endswith(("_token_id", "_ids"))


def _known(probe: int) -> dict[str, int]:
    """What must go together."""
    groups = (2, 3, 5)[probe]
    heads = groups * (2, 4, 3)[probe]
    return {
        "num_key_value_heads": groups,
        "num_attention_heads": heads,
        "hidden_size": heads * (18, 8, 22)[probe],
        "head_dim": (6, 10, 14)[probe],
        "intermediate_size": (44, 52, 76)[probe],
        "vocab_size": (118, 134, 146)[probe],
        "max_position_embeddings": (256, 320, 448)[probe],
        "pad_token_id": (3, 7, 9)[probe],
    }


def _assignment(names: Sequence[str], config: Mapping[str, Any], probe: int, ranks: Ranks) -> dict[str, Any]:
    known = _known(probe)
    values: dict[str, Any] = {}
    for index, name in enumerate(names):
        if name in known:
            values[name] = known[name]
        elif isinstance(config[name], float):
            values[name] = (1 + probe) * (0.011 + 0.0017 * index) * (1e-4 if name.endswith("eps") else 1)
        else:
            values[name] = _unlike(ranks[name, config[name]], probe)
    return values


def alternative(name: str, value: Any) -> Any:
    """Another valid value for a flag, an activation or an unset number; None where there is none to try."""
    if name == "tie_word_embeddings":  # changes which parameters there are, never the graph
        return None
    if isinstance(value, bool):
        return not value
    if isinstance(value, str) and value in ACTIVATIONS:
        return "relu" if value != "relu" else "silu"
    if value is None and name in ("sliding_window", "pad_token_id"):
        return 11
    return None


def inputs_of(probe: int) -> tuple[int, int]:
    """Batch and sequence of a probe, unlike each other and every size."""
    return (3, 2, 4)[probe], (19, 31, 23)[probe]


def express(values: Sequence[Any], environments: Sequence[Assignment]) -> Any:
    """One number, seen in every probe, as the expression that gives it in all of them; or None where none does.

    A number that never changes is itself. Tables and other values are expressed by the one field that equals them.
    """
    first = values[0]
    if isinstance(first, bool) or first is None or isinstance(first, str):
        return first if all(value == first for value in values) else None
    if isinstance(first, Mapping):
        same = (
            name for name in environments[0] if all(e[name] == v for e, v in zip(environments, values, strict=True))
        )
        return next((f"={name}" for name in same), freeze(first) if all(value == first for value in values) else None)
    if not all(isinstance(value, int | float) for value in values):
        return None
    if all(value == first for value in values):
        return first
    found = _search(tuple(values), tuple(_numbers(e) for e in environments))
    if found is None:
        return None
    return f"={parse(found).text}"


def _numbers(environment: Assignment) -> tuple[tuple[str, float], ...]:
    return tuple(
        (name, value)
        for name, value in environment.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )


Environments = tuple[tuple[tuple[str, float], ...], ...]


@lru_cache(maxsize=4096)
def _search(values: tuple[float, ...], environments: Environments) -> str | None:
    """The simplest expression: a name, a root of one, a product, a multiple, a quotient, then sums of two of these."""
    terms = _terms(environments)
    for text, numbers in terms.items():
        if numbers == values:
            return text
    for text, numbers in _powers(environments):
        if all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(numbers, values, strict=True)):
            return text
    if not all(isinstance(value, int) for value in values):
        return None
    for text, numbers in _quotients(environments):
        if numbers == values:
            return text
    by_numbers = {numbers: text for text, numbers in reversed(terms.items())}
    for text, numbers in terms.items():
        rest = tuple(value - number for value, number in zip(values, numbers, strict=True))
        if rest in by_numbers:
            return f"{text} + {by_numbers[rest]}"
        negative = tuple(-number for number in rest)
        if negative in by_numbers:
            return f"{text} - {by_numbers[negative]}"
    return None


@lru_cache(maxsize=64)
def _terms(environments: Environments) -> dict[str, tuple[float, ...]]:
    names = [name for name, _ in environments[0]]
    column = {name: tuple(dict(e)[name] for e in environments) for name in names}
    whole = [name for name in names if all(isinstance(value, int) for value in column[name])]
    terms: dict[str, tuple[float, ...]] = dict(column)
    for i, a in enumerate(whole):
        for b in whole[i:]:
            terms[f"{a} * {b}"] = tuple(x * y for x, y in zip(column[a], column[b], strict=True))
    for factor in (2, 3, 4):
        for text, numbers in list(terms.items()):
            if all(isinstance(number, int) for number in numbers) and not text[0].isdecimal():
                terms.setdefault(f"{factor} * {text}", tuple(factor * number for number in numbers))
    for constant in (1, 2):
        terms[str(constant)] = (constant,) * len(environments)
    return terms


def _powers(environments: Environments) -> Iterator[tuple[str, tuple[float, ...]]]:
    for name, _ in environments[0]:
        numbers = [dict(e)[name] for e in environments]
        if all(number > 0 for number in numbers):
            for exponent in (-0.5, 0.5, -1.0):
                yield f"{name} ** {exponent}", tuple(number**exponent for number in numbers)


def _quotients(environments: Environments) -> Iterator[tuple[str, tuple[float, ...]]]:
    names = [name for name, value in environments[0] if isinstance(value, int)]
    for a in names:
        for b in names:
            column = [(dict(e)[a], dict(e)[b]) for e in environments]
            if a != b and all(y and isinstance(x, int) and x % y == 0 for x, y in column):
                yield f"{a} // {b}", tuple(x // y for x, y in column)
