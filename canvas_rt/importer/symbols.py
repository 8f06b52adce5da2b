"""Express the numbers of a traced model in its config's fields, from a few traces at unlike sizes."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

from canvas_rt.ir.expressions import parse
from canvas_rt.ir.frozen import freeze

Assignment = Mapping[str, Any]


def express(values: Sequence[Any], environments: Sequence[Assignment]) -> Any:
    """One number, seen in every probe, as the expression that gives it in all of them; or None where none does.

    A number that never changes is itself. Tables and other values are expressed by the one field that equals them.
    """
    first = values[0]
    if isinstance(first, bool) or first is None or isinstance(first, str):
        return first if all(value == first for value in values) else None
    if isinstance(first, Mapping):
        seen = [freeze(value) for value in values]
        same = (
            name
            for name in environments[0]
            if all(freeze(e[name]) == v for e, v in zip(environments, seen, strict=True))
        )
        return next((f"={name}" for name in same), freeze(first) if all(value == first for value in values) else None)
    if isinstance(first, tuple):
        return first if all(value == first for value in values) else None
    if not all(isinstance(value, int | float) for value in values):
        return None
    if all(value == first for value in values):
        return first
    # 18 and 18.0 are one key to a cache, and two things to an expression.
    whole = all(isinstance(value, int) for value in values)
    found = (_whole if whole else _search)(tuple(values), _telling(environments))
    if found is None:
        return None
    return f"={parse(found).text}"


def _telling(environments: Sequence[Assignment]) -> "Environments":
    """The numbers that differ from probe to probe: of any other nothing can be told."""
    first, *others = environments
    names = [
        name
        for name, value in first.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and all(isinstance(other.get(name), int | float) for other in others)
        and any(other[name] != value for other in others)
    ]
    return tuple(tuple((name, environment[name]) for name in names) for environment in environments)


Environments = tuple[tuple[tuple[str, float], ...], ...]


@lru_cache(maxsize=4096)
def _search(values: tuple[float, ...], environments: Environments) -> str | None:
    """The simplest expression of a fraction: a root of a whole number, that times a field that is one, or a constant."""
    fields = [name for name, value in environments[0] if isinstance(value, float)]
    for name in fields:
        if _close(_column(name, environments), values):
            return name
    if all(value < 0 for value in values):
        positive = _search(tuple(-value for value in values), environments)
        return None if positive is None else f"-{_factor(positive)}"
    found = _root(values, environments) or _quotient(values, environments)
    if found is not None:
        return found
    for name in fields:
        column = _column(name, environments)
        if all(column):
            rest = _root(tuple(v / c for v, c in zip(values, column, strict=True)), environments)
            if rest is not None:
                return f"{name} * {rest}"
    return _times_constant(values, environments)


def _times_constant(values: tuple[float, ...], environments: Environments) -> str | None:
    """A number that no probe changes times an inverse root, as YaRN's factor on the scale of scores."""
    fields = {text: numbers for numbers, text in _singles(environments).items() if text.isidentifier()}
    sums = {f"({a} + {b})": tuple(map(sum, zip(fields[a], fields[b], strict=True))) for a, b in combinations(fields, 2)}
    for text, numbers in {**fields, **sums}.items():
        constants = [value * number**0.5 for value, number in zip(values, numbers, strict=True)]
        if _close(constants, constants[:1] * len(constants)):
            # The last digits are what rounding left: without them a trace of the emitted code finds the same constant.
            return f"{float(f'{constants[0]:.14g}')!r} * {text} ** -0.5"
    return None


def _root(values: tuple[float, ...], environments: Environments) -> str | None:
    """A number that is no whole one, as a power of an expression that is."""
    if not all(value > 0 for value in values):
        return None
    integral = all(float(value).is_integer() for value in values)
    for text, undo in sorted(_POWERS, key=lambda power: power[0] != "1.0 * {}") if integral else _POWERS:
        wholes = tuple(undo(value) for value in values)
        near = tuple(round(value) for value in wholes)
        if all(near) and _close(near, wholes):
            found = _whole(near, environments)
            if found is not None:
                inner = found if found.isidentifier() else f"({found})"
                return text.format(inner)
    return None


def _quotient(values: tuple[float, ...], environments: Environments) -> str | None:
    """A number that is one whole field over another."""
    for text_under, under in ((text, numbers) for numbers, text in _singles(environments).items()):
        over = tuple(value * number for value, number in zip(values, under, strict=True))
        whole = tuple(round(value) for value in over)
        if all(whole) and _close(whole, over) and whole in _singles(environments):
            return f"{_factor(_singles(environments)[whole])} / {_factor(text_under)}"
    return None


_POWERS: tuple[tuple[str, Callable[[float], float]], ...] = (
    ("{} ** -0.5", lambda value: value**-2),
    ("{} ** 0.5", lambda value: value**2),
    ("{} ** -1.0", lambda value: 1 / value),
    ("1.0 * {}", lambda value: value),
    ("{} ** -0.25", lambda value: value**-4),
)


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(math.isclose(x, y, rel_tol=1e-12) for x, y in zip(a, b, strict=True))


def _column(name: str, environments: Environments) -> tuple[float, ...]:
    return tuple(dict(environment)[name] for environment in environments)


@lru_cache(maxsize=4096)
def _whole(values: tuple[float, ...], environments: Environments) -> str | None:
    """A whole number: a term, a sum or difference of two, such a sum times a field, or a sum of three."""
    terms = _terms(environments)
    known = terms.get(values)
    if known is not None:
        return known
    for numbers, text in _singles(environments).items():
        times = {value / number for value, number in zip(values, numbers, strict=True)}
        if len(times) == 1 and next(iter(times)).is_integer():
            return f"{int(next(iter(times)))} * {_factor(text)}"
    for numbers, text in _singles(environments).items():
        for step in (4, 8, 16, 32, 64, 128, 256):
            if all(-(-number // step) == value for value, number in zip(values, numbers, strict=True)):
                return f"({text} + {step - 1}) // {step}"
    found = _sum(values, terms, terms)
    if found is not None:
        return found
    for numbers, text in _singles(environments).items():
        if all(number > 1 and value % number == 0 for value, number in zip(values, numbers, strict=True)):
            quotient = tuple(value // number for value, number in zip(values, numbers, strict=True))
            inner = _sum(quotient, _multiples(environments), terms) or _sum_of_three(quotient, environments)
            if inner is not None:
                return f"({inner}) * {_factor(text)}"
    for numbers, text in _singles(environments).items():
        over = terms.get(tuple(value * number for value, number in zip(values, numbers, strict=True)))
        if over is not None and "//" not in text:
            return f"({over}) // {text}"
    rounded = _rounded_up(values, environments)
    if rounded is not None:
        return rounded
    for numbers, text in terms.items():
        beyond = {value - number for value, number in zip(values, numbers, strict=True)}
        if len(beyond) == 1:  # a number that no probe changes
            constant = int(next(iter(beyond)))
            return f"{text} + {constant}" if constant > 0 else f"{text} - {-constant}"
    for numbers, text in _singles(environments).items():
        rest = tuple(value - number for value, number in zip(values, numbers, strict=True))
        if all(number > 0 for number in rest):
            inner = _sum(rest, terms, terms)
            if inner is not None:
                return f"{inner} + {text}"
    return _square(values, environments)


def _square(values: tuple[float, ...], environments: Environments) -> str | None:
    """The square of a quotient, and a number that no probe changes: the patches of an image, and a class token."""
    for numbers, text in _singles(environments).items():
        beyond = {value - number * number for value, number in zip(values, numbers, strict=True)}
        if "//" in text and len(beyond) == 1:
            constant = int(next(iter(beyond)))
            return f"({text}) ** 2" + (f" + {constant}" if constant > 0 else f" - {-constant}" if constant else "")
    return None


def _rounded_up(values: tuple[float, ...], environments: Environments) -> str | None:
    """A term, or two or eight thirds of a field, rounded up to a multiple of a field or of a power of two."""
    singles = _singles(environments)
    parts = dict(_multiples(environments))
    for factor in (2, 8):
        for numbers, text in singles.items():
            parts.setdefault(tuple(factor * n // 3 for n in numbers), f"{factor} * {_factor(text)} // 3")
    steps = {(step,) * len(values): str(step) for step in (8, 16, 32, 64, 128, 256)} | dict(singles)
    for step, unit in steps.items():
        if any(n < 2 or value % n for value, n in zip(values, step, strict=True)):
            continue
        for numbers, text in parts.items():
            if all(-(-n // m) * m == value for n, m, value in zip(numbers, step, values, strict=True)):
                return f"({text} + {unit} - 1) // {_factor(unit)} * {_factor(unit)}"
    return None


Terms = Mapping[tuple[float, ...], str]


def _sum(values: tuple[float, ...], first: Terms, second: Terms) -> str | None:
    for numbers, text in first.items():
        rest = tuple(value - number for value, number in zip(values, numbers, strict=True))
        if rest in second:
            return f"{text} + {second[rest]}"
        negative = tuple(-number for number in rest)
        if negative in second:
            return f"{text} - {_factor(second[negative])}"
    return None


def _sum_of_three(values: tuple[float, ...], environments: Environments) -> str | None:
    """Three fields, or small multiples of them."""
    for numbers, text in _singles(environments).items():
        rest = tuple(value - number for value, number in zip(values, numbers, strict=True))
        if all(number > 0 for number in rest):
            inner = _sum(rest, _multiples(environments), _multiples(environments))
            if inner is not None:
                return f"{inner} + {text}"
    return None


def _factor(text: str) -> str:
    return f"({text})" if "//" in text or " + " in text or " - " in text else text


@lru_cache(maxsize=64)
def _singles(environments: Environments) -> Terms:
    """Fields, and exact quotients of two of them."""
    found: dict[tuple[float, ...], str] = {}
    columns = {name: _column(name, environments) for name, value in environments[0] if isinstance(value, int)}
    columns = {name: column for name, column in columns.items() if all(isinstance(n, int) and n > 0 for n in column)}
    for name, column in columns.items():
        found.setdefault(column, name)
    for a, over in columns.items():
        for b, under in columns.items():
            if a != b and all(x % y == 0 and x > y for x, y in zip(over, under, strict=True)):
                found.setdefault(tuple(x // y for x, y in zip(over, under, strict=True)), f"{a} // {b}")
    return found


@lru_cache(maxsize=64)
def _multiples(environments: Environments) -> Terms:
    """Fields and quotients, their halves and small multiples, and small numbers."""
    singles = _singles(environments)
    found = dict(singles)
    for factor in (2, 3, 4):
        for numbers, text in singles.items():
            found.setdefault(tuple(factor * number for number in numbers), f"{factor} * {_factor(text)}")
    for numbers, text in singles.items():
        if all(number % 2 == 0 for number in numbers):
            found.setdefault(tuple(number // 2 for number in numbers), f"{text} // 2")
    for constant in (1, 2, 3, 4):
        found.setdefault((constant,) * len(environments), str(constant))
    return found


@lru_cache(maxsize=64)
def _terms(environments: Environments) -> Terms:
    """What a whole number may be a sum of, the simplest first."""
    singles = _singles(environments)
    found = dict(_multiples(environments))
    pairs: dict[tuple[float, ...], str] = {}
    listed = list(singles.items())
    for i, (a, text) in enumerate(listed):
        for b, other in listed[i:]:
            if "//" in text and "//" in other:
                continue
            product = tuple(x * y for x, y in zip(a, b, strict=True))
            pairs.setdefault(
                product,
                f"{other} * {text}" if "//" in other else f"{_factor(text) if '//' in text else text} * {other}",
            )
    for numbers, text in pairs.items():
        found.setdefault(numbers, text)
    for factor in (2, 3, 4):
        for numbers, text in pairs.items():
            found.setdefault(tuple(factor * number for number in numbers), f"{factor} * {_factor(text)}")
    for numbers, text in pairs.items():
        if all(number % 2 == 0 for number in numbers):
            found.setdefault(tuple(number // 2 for number in numbers), f"{text} // 2")
    for numbers, text in singles.items():
        if all(number % 4 == 0 for number in numbers):
            found.setdefault(tuple(number // 4 for number in numbers), f"{text} // 4")
            found.setdefault(tuple(3 * number // 4 for number in numbers), f"3 * {text} // 4")
    return found
