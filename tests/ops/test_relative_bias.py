"""A bias that is learned by distance chooses among its buckets as T5 does."""

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from canvas_rt.ir.document import Node
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ops.catalogue import OPS, complete
from canvas_rt.ops.kernels import KERNELS, Context
from canvas_rt.ops.op import Facts
from canvas_rt.ops.scores import distance_buckets

PLACES = torch.arange(300)
DISTANCE = PLACES[None, :] - PLACES[:, None]


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (10, 40), (8, 5), (4, 200)])
def test_buckets_are_those_of_t5(both_ways: bool, buckets: int, farthest: int) -> None:
    theirs = T5Attention._relative_position_bucket(DISTANCE, both_ways, buckets, farthest)
    assert torch.equal(distance_buckets(DISTANCE, buckets, farthest, both_ways), theirs)


def test_what_the_cache_holds_is_behind_the_new_tokens() -> None:
    weight = torch.randn(8, 3)
    node = Node(id="x", op="relative_bias", attrs=FrozenMap({"buckets": 8, "heads": 3, "farthest": 20}))
    kernel, attrs = KERNELS["relative_bias"], complete(node)
    (whole,) = kernel({"position_ids": PLACES[None, :9]}, attrs, {"weight": weight}, Context(1, 9, weight.device))
    context = Context(1, 1, weight.device, past=8)
    (last,) = kernel({"position_ids": PLACES[None, 8:9]}, attrs, {"weight": weight}, context)
    assert whole.shape == (1, 3, 9, 9)
    assert torch.equal(last, whole[:, :, -1:])


@pytest.mark.parametrize(("buckets", "farthest"), [(2, 1), (32, 8), (1, 20)])
def test_too_few_buckets_or_too_near_a_farthest_are_said(buckets: int, farthest: int) -> None:
    attrs = {"buckets": buckets, "heads": 2, "farthest": farthest, "both_ways": True}
    facts = Facts(attrs, {name: str(value) for name, value in attrs.items()}, {"position_ids": (1, 4)}, {})
    assert any("farthest" in message for message, _ in OPS["relative_bias"].problems(facts))
