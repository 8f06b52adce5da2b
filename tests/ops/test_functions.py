"""Every row of the table of plain functions says what torch says, runs, and is written as what it is."""

import ast
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from canvas_rt.codegen.functions import Anchor, expression_of
from canvas_rt.codegen.syntax import quote, setting, unparse
from canvas_rt.importer.calls import bind
from canvas_rt.ops.catalogue import OPS
from canvas_rt.ops.choices import DTYPES
from canvas_rt.ops.dispatch import kernel
from canvas_rt.ops.functions import ALL, FUNCTIONS, PREFIX, Function, function_named, function_op
from canvas_rt.ops.kernels import Context

TYPES: Mapping[str, tuple[str, ...]] = {
    "tensor": ("Tensor", "Optional[Tensor]"),
    "none": ("Optional[Tensor]",),
    "tensors": ("List[Tensor]", "List[Optional[Tensor]]"),
    "int": ("int", "SymInt", "Optional[int]", "Optional[SymInt]"),
    "ints": ("List[int]", "List[SymInt]"),
    "dims": ("List[int]", "List[SymInt]", "Optional[List[int]]"),
    "number": ("number", "float", "Optional[number]", "Optional[float]", "Tensor"),  # torch makes numbers tensors
    "flag": ("bool",),
    "dtype": ("int", "Optional[int]", "ScalarType", "Optional[ScalarType]"),
    "text": ("str", "Optional[str]"),
}


def overload(function: Function) -> Any:
    _, name, kind = function.target.split(".")
    return getattr(getattr(torch.ops.aten, name), kind)


@pytest.mark.parametrize("function", ALL, ids=lambda function: f"{function.name}-{function.target}")
def test_a_row_is_what_torchs_schema_says(function: Function) -> None:
    schema = overload(function)._schema
    formals = schema.arguments
    for argument, formal in zip(function.arguments, formals, strict=False):
        assert str(formal.type) in TYPES[argument.kind], (argument, formal)
        if not argument.required and argument.default is not None:
            torchs = formal.default_value
            if argument.kind == "ints":  # one number stands for as many as there are dimensions
                torchs = tuple(set(torchs)) if isinstance(torchs, list) else (torchs,)
            assert torchs == argument.default
    assert all(formal.has_default_value() for formal in formals[len(function.arguments) :])
    returns = [str(value.type) for value in schema.returns]
    assert returns == (["List[Tensor]"] if function.outputs == "*" else ["Tensor"] * int(function.outputs))


def test_a_function_is_named_once_for_what_it_takes() -> None:
    taken = [(f.name, tuple(a.kind for a in f.arguments)) for f in ALL]
    assert {name for name, _ in taken} == FUNCTIONS.keys()
    assert len(set(taken)) == len(FUNCTIONS)  # several overloads may go by one name: then they take the same


def test_names_that_are_no_function_are_no_op() -> None:
    for name in ("torch.none", "view", "torch.view.2", "torch.cat", "torch.cat.0", "torch.cat.02", "torch.cat.65"):
        assert function_named(name) is None and function_op(name) is None and name not in OPS


# samples: what a tensor or a setting of that name is, and what is so for one function only

N = 4


def floats(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))) + 0.5


def whole(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape) % 2


def flags(*shape: int) -> Tensor:
    return whole(*shape).bool()


GIVEN: Mapping[str, Any] = {
    "mask": flags(2, N, N),
    "condition": flags(2, N, N),
    "index": whole(2, N, N),
    "ids": whole(2, N),
    "weight": floats(N),
    "bias": floats(N),
    "dim": 1,
    "dims": (1,),
    "dim0": 0,
    "dim1": 1,
    "size": (2, N * N),
    "sizes": (2, 2),
    "shape": (N,),
    "times": (1, 2, 1),
    "pad": (1, 1),
    "shifts": (1,),
    "start": 0,
    "end": 5,
    "base": 2,
    "exponent": 3,
    "other": 2,
    "value": 2.5,
    "n": 3,
    "k": 2,
    "length": 2,
    "step": 1,
    "min": 0.75,
    "alpha": 3,
    "correction": 0,
    "padding": "same",
    "a": 2,
    "b": 3,
    "chunks": 2,
    "groups": 2,
    "classes": 5,
    "dtype": "float64",
    "equation": "bij,bjk->bik",
    "rounding_mode": "floor",
    "approximate": "tanh",
}

SQUARE, IMAGE = floats(N, N), floats(2, N, N, N)

OWN: Mapping[str, Mapping[str, Any]] = {
    "addmm": {"x": SQUARE, "a": SQUARE, "b": SQUARE},
    "t": {"x": SQUARE},
    "contiguous": {"x": floats(N, 2, N).transpose(0, 1)},
    "numpy_t": {"x": SQUARE},
    "expand": {"x": floats(1, N), "size": (2, N)},
    "permute": {"dims": (0, -1, 1)},
    "slice": {"start": 1, "end": 3},
    "slice_scatter": {"dim": 1, "start": 1, "end": 3, "source": floats(2, 2, N)},
    "select": {"index": 1},
    "select_scatter": {"index": 1, "source": floats(2, N)},
    "index_select": {"index": whole(N)},
    "index_add": {"index": whole(N)},
    "index": {"xs_0": whole(N), "xs_1": whole(N)},
    "masked_fill_tensor": {"value": floats()},
    "repeat_interleave": {"times": 2},
    "clamp": {"min": 0.75},
    "split": {"dim": 1},
    "split_evenly": {"size": 2, "dim": 1},
    "unbind": {"dim": 0},
    "unfold": {"size": 2},
    "and": {"a": flags(2, N), "b": flags(2, 1)},
    "or": {"a": flags(2, N), "b": flags(2, 1)},
    "bitwise_not": {"x": flags(2, N)},
    "one_hot": {"x": whole(2, N)},
    "embedding": {"weight": SQUARE},
    "linear": {"weight": SQUARE},
    "linear_plain": {"weight": SQUARE},
    "conv1d": {"weight": floats(N, N, 1), "groups": 1},
    "conv1d_plain": {"weight": floats(N, N // 2, 1), "groups": 2},
    "conv1d_same": {"weight": floats(N, 1, 3), "groups": N},
    "conv2d": {"x": IMAGE, "weight": floats(N, N, 1, 1), "groups": 1},
    "conv2d_plain": {"x": IMAGE, "weight": floats(N, N // 2, 1, 1), "groups": 2},
    "view_as_complex": {"x": floats(N, 2)},
    "view_as_real": {"x": torch.complex(floats(N), floats(N))},
    "arange": {"end": 5},
    "attend": {"q": IMAGE, "k": IMAGE, "v": IMAGE},
    "attend_masked": {"q": IMAGE, "k": IMAGE, "v": IMAGE, "mask": flags(1, 1, 1, N)},
}

NOT_ITS_NUMBERS = {"new_empty"}
"""What these hold is not said."""

WRITTEN_ANEW = {"scalar": "lift_fresh_copy"}
"""What torch's own tracer makes of the text of these."""


def sample(function: Function) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """An op, with values for its ports and settings."""
    op = f"{PREFIX}{function.name}" + (".2" if function.listed else "")
    found = function_op(op)
    assert found is not None
    own = OWN.get(function.name, {})
    tensors = {name: value for name, value in GIVEN.items() if isinstance(value, Tensor)}
    inputs = {port: own.get(port, tensors.get(port, floats(2, N, N))) for port in found.inputs}
    attrs = {}
    for name, known in found.settings.items():
        value = GIVEN[name] if known.default is None and not known.optional else known.default
        value = own.get(name, value)
        attrs[name] = (value,) if known.kind == "integers" and isinstance(value, int) else value
    return op, inputs, attrs


def on(device: str) -> Context:
    return Context(2, N, torch.device(device))


def computed(op: str, inputs: Mapping[str, Tensor], attrs: Mapping[str, Any], device: str) -> tuple[Tensor, ...]:
    return kernel(op)({port: value.to(device) for port, value in inputs.items()}, attrs, {}, on(device))


def written(function: Function, op: str, attrs: Mapping[str, Any]) -> tuple[str, Any]:
    """The text that is emitted, and what it computes of the op's inputs in their order."""
    ports = OPS[op].inputs
    anchor = Anchor(quote("like.device"), quote("like.dtype"))
    names: list[ast.expr] = [ast.Name(f"a{index}", ast.Load()) for index in range(len(ports))]
    text = unparse(expression_of(function, names, attrs, setting, anchor))
    scope: dict[str, Any] = {"torch": torch, "nn": nn, "like": floats(1)}
    exec(f"def run({', '.join(f'a{index}' for index in range(len(ports)))}):\n    return {text}", scope)
    return text, scope["run"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes_and_dtypes_are_told_without_computing(name: str) -> None:
    op, inputs, attrs = sample(FUNCTIONS[name])
    numbers, shapes = (computed(op, inputs, attrs, device) for device in ("cpu", "meta"))
    assert len(numbers) == len(OPS[op].outputs)
    assert [(n.shape, n.dtype) for n in numbers] == [(s.shape, s.dtype) for s in shapes]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_written_computes_the_same(name: str) -> None:
    op, inputs, attrs = sample(FUNCTIONS[name])
    text, run = written(FUNCTIONS[name], op, attrs)
    found = run(*(inputs[port] for port in OPS[op].inputs))
    found = tuple(found) if isinstance(found, tuple | list) else (found,)
    for a, b in zip(found, computed(op, inputs, attrs, "cpu"), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), text
        assert name in NOT_ITS_NUMBERS or torch.equal(a, b), text


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_written_is_read_as_the_same_op(name: str) -> None:
    op, inputs, attrs = sample(FUNCTIONS[name])
    text, run = written(FUNCTIONS[name], op, attrs)
    graph = make_fx(run, tracing_mode="fake", pre_dispatch=True)(*(inputs[port] for port in OPS[op].inputs)).graph
    calls = [node for node in graph.nodes if node.op == "call_function" and "getitem" not in str(node.target)]
    if name in WRITTEN_ANEW:
        assert WRITTEN_ANEW[name] in str(calls[0].target)
        return
    bound = bind(calls[-1])
    assert bound is not None and bound[0] == op, (text, calls)
    defaults = {name: setting.default for name, setting in OPS[op].settings.items()}
    assert {**defaults, **bound[2]} == attrs, text


def test_every_dtype_that_a_document_names_is_one_of_torch() -> None:
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in DTYPES if name != "model")
