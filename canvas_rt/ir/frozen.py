"""Immutable, hashable containers for what JSON can say."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler, JsonValue
from pydantic_core import CoreSchema, core_schema

K = TypeVar("K")
V = TypeVar("V")


class FrozenMap(dict[K, V], Generic[K, V]):
    """A dict that cannot change, so it can be shared between documents and used as a key."""

    __slots__ = ("_hash",)

    def _refuse(self, *args: object, **kwargs: object) -> Any:
        raise TypeError("a document's values never change: build a new one")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        try:
            return self._hash
        except AttributeError:
            self._hash: int = hash(frozenset(self.items()))
            return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (dict(self),))

    def __copy__(self) -> "FrozenMap[K, V]":
        return self

    def __deepcopy__(self, memo: object) -> "FrozenMap[K, V]":
        return self

    def with_items(self, items: Mapping[K, V]) -> "FrozenMap[K, V]":
        """A copy with some entries set."""
        return FrozenMap({**self, **items})

    def without(self, *keys: K) -> "FrozenMap[K, V]":
        """A copy that lacks some entries."""
        return FrozenMap({key: value for key, value in self.items() if key not in keys})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        arguments = get_args(source) or (Any, Any)
        inner = handler.generate_schema(dict.__class_getitem__(arguments))  # dict[arguments], which mypy cannot read
        return core_schema.no_info_after_validator_function(cls, inner)


def freeze(value: Any) -> Any:
    """The same JSON value in immutable form: lists become tuples, objects become `FrozenMap`s."""
    if isinstance(value, Mapping):
        return FrozenMap({str(key): freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def thaw(value: Any) -> Any:
    """A frozen value as plain lists and dicts, for JSON and for libraries that insist on them."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(item) for item in value]
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"must be a finite number, not {value}")
    if isinstance(value, tuple):
        for item in value:
            _finite(item)
    if isinstance(value, Mapping):
        for item in value.values():
            _finite(item)
    return value


Frozen = Annotated[Any, BeforeValidator(lambda value: _finite(freeze(value))), AfterValidator(lambda value: value)]
"""Any JSON value, made immutable."""

__all__ = ["Frozen", "FrozenMap", "JsonValue", "freeze", "thaw"]
