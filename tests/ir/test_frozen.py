"""Frozen values never change, hash alike when equal, and thaw to what JSON said."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canvas_rt.ir.frozen import FrozenMap, freeze, thaw

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@given(json_values)
def test_thawing_gives_back_what_was_frozen(value: Any) -> None:
    assert thaw(freeze(value)) == value


@given(json_values)
def test_equal_values_hash_alike_and_copies_are_equal(value: Any) -> None:
    frozen = freeze(value)
    assert hash(frozen) == hash(freeze(copy.deepcopy(value)))
    assert copy.deepcopy(frozen) == pickle.loads(pickle.dumps(frozen)) == frozen


@given(st.dictionaries(st.text(max_size=4), st.integers()), st.dictionaries(st.text(max_size=4), st.integers()))
def test_a_changed_copy_leaves_the_original(table: dict[str, int], more: dict[str, int]) -> None:
    frozen = FrozenMap(table)
    assert frozen.with_items(more) == {**table, **more}
    assert frozen.without(*more) == {key: value for key, value in table.items() if key not in more}
    assert frozen == table


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.__setitem__("a", 2),
        lambda m: m.__delitem__("a"),
        lambda m: m.update(a=2),
        lambda m: m.pop("a"),
        lambda m: m.popitem(),
        lambda m: m.clear(),
        lambda m: m.setdefault("b", 2),
        lambda m: m.__ior__({"b": 2}),
    ],
)
def test_a_frozen_map_refuses_to_change(change: Callable[[Any], Any]) -> None:
    frozen = FrozenMap({"a": 1})
    with pytest.raises(TypeError, match="never change"):
        change(frozen)
    assert frozen == {"a": 1}
