"""The functions of torch that a traced graph may hold, as data: what each takes, gives, and how it is written. Needs no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from canvas_rt.ops.op import Facts, Op, Setting, Shape

PREFIX = "torch."
"""How the ops that are plain functions begin: `torch.view`, `torch.cat.3`."""

RUN_TIME = ("batch", "seq", "source")
"""Names that stand for what a run is given: sequences, new tokens of each, and what an encoder reads, if there is one."""

MOST_VALUES = 64
"""More values than any function may take or give."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a function, in the order of its schema."""

    name: str
    kind: str
    """`tensor`, `tensors`, `int`, `ints`, `dims`, `number`, `flag`, `dtype` or `text`."""

    default: Any = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class Function:
    """One function of torch."""

    name: str
    target: str
    """Its overload, as in `aten.view.default`."""

    arguments: tuple[Argument, ...]
    outputs: str
    """How many values it gives: a number, or `*` for a list of them."""

    text: str
    """How it is written in Python, by its arguments' names; `like` is a value whose device and dtype it takes."""

    @property
    def listed(self) -> bool:
        """Whether it takes or gives a list: then the op's name tells how long it is."""
        return self.outputs == "*" or any(argument.kind == "tensors" for argument in self.arguments)


_TABLE = """
add_number      add.Tensor           x, other:number                                  1  x + other
add_scaled      add.Tensor           a, b, alpha:number                               1  torch.add(a, b, alpha=alpha)
sub_number      sub.Tensor           x, other:number                                  1  x - other
rsub            rsub.Scalar          x, other:number                                  1  other - x
div             div.Tensor           a, b                                             1  a / b
div_number      div.Tensor           x, other:number                                  1  x / other
div_rounded     div.Tensor_mode      x, other:number, rounding_mode:text              1  torch.div(x, other, rounding_mode=rounding_mode)
floor_divide    floor_divide.default x, other:number                                  1  x // other
remainder       remainder.Scalar     x, other:number                                  1  x % other
pow             pow.Tensor_Scalar    x, exponent:number                               1  x**exponent
pow_of          pow.Scalar           base:number, x                                   1  base**x
pow_tensor      pow.Tensor_Tensor    a, b                                             1  a**b
maximum         max.other            a, b                                             1  torch.max(a, b)
minimum         min.other            a, b                                             1  torch.min(a, b)
maximum         maximum.default      a, b                                             1  torch.maximum(a, b)
minimum         minimum.default      a, b                                             1  torch.minimum(a, b)
matmul          matmul.default       a, b                                             1  a @ b
bmm             bmm.default          a, b                                             1  torch.bmm(a, b)
baddbmm         baddbmm.default      x, a, b, beta:number=1, alpha:number=1           1  torch.baddbmm(x, a, b, beta=beta, alpha=alpha)
addmm           addmm.default        x, a, b, beta:number=1, alpha:number=1           1  torch.addmm(x, a, b, beta=beta, alpha=alpha)
einsum          einsum.default       equation:text, xs*                               1  torch.einsum(equation, *xs)
neg             neg.default          x                                                1  -x
abs             abs.default          x                                                1  x.abs()
exp             exp.default          x                                                1  x.exp()
expm1           expm1.default        x                                                1  x.expm1()
log             log.default          x                                                1  x.log()
log1p           log1p.default        x                                                1  x.log1p()
sqrt            sqrt.default         x                                                1  x.sqrt()
rsqrt           rsqrt.default        x                                                1  x.rsqrt()
square          square.default       x                                                1  x.square()
reciprocal      reciprocal.default   x                                                1  x.reciprocal()
floor           floor.default        x                                                1  x.floor()
sign            sign.default         x                                                1  x.sign()
sin             sin.default          x                                                1  x.sin()
cos             cos.default          x                                                1  x.cos()
erf             erf.default          x                                                1  x.erf()
softplus        softplus.default     x, beta:number=1, threshold:number=20
                                      1  nn.functional.softplus(x, beta=beta, threshold=threshold)
log_sigmoid     log_sigmoid.default  x                                                1  nn.functional.logsigmoid(x)
leaky_relu      leaky_relu.default   x, slope:number=0.01                             1  nn.functional.leaky_relu(x, slope)
elu             elu.default          x, alpha:number=1                                1  nn.functional.elu(x, alpha)
gelu_tanh       gelu.default         x, approximate:text                              1  nn.functional.gelu(x, approximate=approximate)
softmax         softmax.int          x, dim:int, dtype:dtype=null                     1  x.softmax(dim=dim, dtype=dtype)
log_softmax     log_softmax.int      x, dim:int, dtype:dtype=null                     1  x.log_softmax(dim=dim, dtype=dtype)
logsumexp       logsumexp.default    x, dim:dims, keepdim:flag=false                  1  x.logsumexp(dim=dim, keepdim=keepdim)
sum             sum.dim_IntList      x, dim:dims, keepdim:flag=false, dtype:dtype=null  1  x.sum(dim=dim, keepdim=keepdim, dtype=dtype)
sum_all         sum.default          x                                                1  x.sum()
mean            mean.dim             x, dim:dims, keepdim:flag=false, dtype:dtype=null  1  x.mean(dim=dim, keepdim=keepdim, dtype=dtype)
var             var.correction       x, dim:dims, correction:number, keepdim:flag=false
                                      1  x.var(dim=dim, correction=correction, keepdim=keepdim)
var_unbiased    var.dim              x, dim:dims, unbiased:flag=true, keepdim:flag=false
                                      1  x.var(dim=dim, unbiased=unbiased, keepdim=keepdim)
norm            linalg_vector_norm.default  x, ord:number=2, dim:dims=null, keepdim:flag=false
                                      1  torch.linalg.vector_norm(x, ord=ord, dim=dim, keepdim=keepdim)
amax            amax.default         x, dim:dims, keepdim:flag=false                  1  x.amax(dim=dim, keepdim=keepdim)
max_all         max.default          x                                                1  x.max()
max             max.dim              x, dim:int, keepdim:flag=false                   2  x.max(dim=dim, keepdim=keepdim)
min             min.dim              x, dim:int, keepdim:flag=false                   2  x.min(dim=dim, keepdim=keepdim)
argmax          argmax.default       x, dim:int, keepdim:flag=false                   1  x.argmax(dim=dim, keepdim=keepdim)
sort            sort.default         x, dim:int=-1, descending:flag=false             2  x.sort(dim=dim, descending=descending)
argsort         argsort.default      x, dim:int=-1, descending:flag=false             1  x.argsort(dim=dim, descending=descending)
topk            topk.default         x, k:int, dim:int=-1, largest:flag=true, sorted:flag=true
                                      2  x.topk(k, dim=dim, largest=largest, sorted=sorted)
cumsum          cumsum.default       x, dim:int, dtype:dtype=null                     1  x.cumsum(dim=dim, dtype=dtype)
clamp           clamp.default        x, min:number=null, max:number=null              1  x.clamp(min=min, max=max)
clamp_min       clamp_min.default    x, min:number                                    1  x.clamp_min(min)
clamp_tensor    clamp.Tensor         x, low, high                                     1  x.clamp(low, high)
clamp_from      clamp.Tensor         x, low, high:none                                1  x.clamp(low)
view            view.default         x, size:ints                                     1  x.view(*size)
reshape         reshape.default      x, size:ints                                     1  x.reshape(*size)
view_as         view_as.default      x, other                                         1  x.view_as(other)
view_as_complex view_as_complex.default  x                                            1  torch.view_as_complex(x)
view_as_real    view_as_real.default  x                                               1  torch.view_as_real(x)
reshape_as      reshape_as.default   x, other                                         1  x.reshape_as(other)
expand          expand.default       x, size:ints                                     1  x.expand(*size)
expand_as       expand_as.default    x, other                                         1  x.expand_as(other)
flatten         flatten.using_ints   x, start:int=0, end:int=-1                       1  x.flatten(start, end)
unflatten       unflatten.int        x, dim:int, sizes:ints                           1  x.unflatten(dim, sizes)
transpose       transpose.int        x, dim0:int, dim1:int                            1  x.transpose(dim0, dim1)
permute         permute.default      x, dims:ints                                     1  x.permute(*dims)
numpy_t         numpy_T.default      x                                                1  x.T
t               t.default            x                                                1  x.t()
squeeze         squeeze.dim          x, dim:int                                       1  x.squeeze(dim)
squeeze_all     squeeze.default      x                                                1  x.squeeze()
unsqueeze       unsqueeze.default    x, dim:int                                       1  x.unsqueeze(dim)
slice           slice.Tensor         x, dim:int=0, start:int=null, end:int=null, step:int=1  1  slice
select          select.int           x, dim:int, index:int                            1  select
narrow          narrow.default       x, dim:int, start:int, length:int                1  x.narrow(dim, start, length)
index           index.Tensor         x, xs*                                           1  x[xs]
index_select    index_select.default x, dim:int, index                                1  x.index_select(dim, index)
index_add       index_add.default    x, dim:int, index, source                        1  x.index_add(dim, index, source)
slice_scatter   slice_scatter.default  x, source, dim:int=0, start:int=null, end:int=null, step:int=1
                                      1  torch.slice_scatter(x, source, dim=dim, start=start, end=end, step=step)
select_scatter  select_scatter.default  x, source, dim:int, index:int                 1  torch.select_scatter(x, source, dim, index)
new_empty       new_empty.default    x, size:ints, dtype:dtype=null                   1  x.new_empty(size, dtype=dtype)
diff            diff.default         x, n:int=1, dim:int=-1                           1  x.diff(n=n, dim=dim)
gather          gather.default       x, dim:int, index                                1  x.gather(dim, index)
scatter         scatter.src          x, dim:int, index, source                        1  x.scatter(dim, index, source)
scatter_number  scatter.value        x, dim:int, index, value:number                  1  x.scatter(dim, index, value)
scatter_add     scatter_add.default  x, dim:int, index, source                        1  x.scatter_add(dim, index, source)
take_along_dim  take_along_dim.default  x, index, dim:int                             1  x.take_along_dim(index, dim)
repeat          repeat.default       x, times:ints                                    1  x.repeat(*times)
repeat_interleave  repeat_interleave.self_int  x, times:int, dim:int=null             1  x.repeat_interleave(times, dim=dim)
tile            tile.default         x, times:ints                                    1  x.tile(times)
roll            roll.default         x, shifts:dims, dims:dims                        1  x.roll(shifts, dims)
flip            flip.default         x, dims:ints                                     1  x.flip(*dims)
unfold          unfold.default       x, dim:int, size:int, step:int                   1  x.unfold(dim, size, step)
pad             pad.default          x, pad:ints, mode:text="constant", value:number=null
                                      1  nn.functional.pad(x, pad, mode=mode, value=value)
cat             cat.default          xs*, dim:int=0                                   1  torch.cat(xs, dim=dim)
cat             concat.default       xs*, dim:int=0                                   1  torch.cat(xs, dim=dim)
cat             concatenate.default  xs*, dim:int=0                                   1  torch.cat(xs, dim=dim)
stack           stack.default        xs*, dim:int=0                                   1  torch.stack(xs, dim=dim)
chunk           chunk.default        x, chunks:int, dim:int=0                         *  x.chunk(chunks, dim=dim)
split           split_with_sizes.default  x, sizes:ints, dim:int=0                    *  x.split(sizes, dim=dim)
split_evenly    split.Tensor         x, size:int, dim:int=0                           *  x.split(size, dim=dim)
unbind          unbind.int           x, dim:int=0                                     *  x.unbind(dim)
masked_fill     masked_fill.Scalar   x, mask, value:number                            1  x.masked_fill(mask, value)
masked_fill_tensor  masked_fill.Tensor  x, mask, value                                1  x.masked_fill(mask, value)
where           where.self           condition, a, b                                  1  torch.where(condition, a, b)
where_number    where.ScalarOther    condition, a, other:number                       1  torch.where(condition, a, other)
where_self      where.ScalarSelf     condition, other:number, b                       1  torch.where(condition, other, b)
where_numbers   where.Scalar         condition, a:number, b:number                    1  torch.where(condition, a, b)
eq              eq.Tensor            a, b                                             1  a == b
ne              ne.Tensor            a, b                                             1  a != b
lt              lt.Tensor            a, b                                             1  a < b
le              le.Tensor            a, b                                             1  a <= b
gt              gt.Tensor            a, b                                             1  a > b
ge              ge.Tensor            a, b                                             1  a >= b
eq_number       eq.Scalar            x, other:number                                  1  x == other
ne_number       ne.Scalar            x, other:number                                  1  x != other
lt_number       lt.Scalar            x, other:number                                  1  x < other
le_number       le.Scalar            x, other:number                                  1  x <= other
gt_number       gt.Scalar            x, other:number                                  1  x > other
ge_number       ge.Scalar            x, other:number                                  1  x >= other
and             __and__.Tensor       a, b                                             1  a & b
or              __or__.Tensor        a, b                                             1  a | b
logical_and     logical_and.default  a, b                                             1  torch.logical_and(a, b)
logical_or      logical_or.default   a, b                                             1  torch.logical_or(a, b)
bitwise_not     bitwise_not.default  x                                                1  ~x
logical_not     logical_not.default  x                                                1  x.logical_not()
to              to.dtype             x, dtype:dtype                                   1  x.to(dtype)
contiguous      contiguous.default   x                                                1  x.contiguous()
clone           clone.default        x                                                1  x.clone()
type_as         type_as.default      x, other                                         1  x.type_as(other)
tril            tril.default         x, diagonal:int=0                                1  x.tril(diagonal)
triu            triu.default         x, diagonal:int=0                                1  x.triu(diagonal)
one_hot         one_hot.default      x, classes:int                                   1  nn.functional.one_hot(x, classes)
zeros_like      zeros_like.default   x, dtype:dtype=null                              1  torch.zeros_like(x, dtype=dtype)
ones_like       ones_like.default    x, dtype:dtype=null                              1  torch.ones_like(x, dtype=dtype)
full_like       full_like.default    x, value:number, dtype:dtype=null                1  torch.full_like(x, value, dtype=dtype)
new_zeros       new_zeros.default    x, size:ints, dtype:dtype=null                   1  x.new_zeros(size, dtype=dtype)
new_ones        new_ones.default     x, size:ints, dtype:dtype=null                   1  x.new_ones(size, dtype=dtype)
new_full        new_full.default     x, size:ints, value:number, dtype:dtype=null     1  x.new_full(size, value, dtype=dtype)
zeros           zeros.default        size:ints, dtype:dtype=null                      1  torch.zeros(size, dtype=dtype, device=like.device)
ones            ones.default         size:ints, dtype:dtype=null                      1  torch.ones(size, dtype=dtype, device=like.device)
full            full.default         size:ints, value:number, dtype:dtype=null
                                      1  torch.full(size, value, dtype=dtype, device=like.device)
scalar          scalar_tensor.default  value:number, dtype:dtype=null
                                      1  torch.tensor(value, dtype=dtype, device=like.device)
eye             eye.default          n:int, dtype:dtype=null                          1  torch.eye(n, dtype=dtype, device=like.device)
arange          arange.default       end:number, dtype:dtype=null                     1  torch.arange(end, dtype=dtype, device=like.device)
arange_from     arange.start         start:number, end:number, dtype:dtype=null
                                      1  torch.arange(start, end, dtype=dtype, device=like.device)
arange_by       arange.start_step    start:number, end:number, step:number=1, dtype:dtype=null
                                      1  torch.arange(start, end, step, dtype=dtype, device=like.device)
linear          linear.default       x, weight, bias                                  1  nn.functional.linear(x, weight, bias)
linear_plain    linear.default       x, weight                                        1  nn.functional.linear(x, weight)
embedding       embedding.default    weight, ids, padding_idx:int=-1
                                      1  nn.functional.embedding(ids, weight, padding_idx=padding_idx)
conv1d          conv1d.default       x, weight, bias, stride:ints=1, padding:ints=0, dilation:ints=1, groups:int=1
                                      1  nn.functional.conv1d(x, weight, bias, stride, padding, dilation, groups)
conv1d_plain    conv1d.default       x, weight, none:none, stride:ints=1, padding:ints=0, dilation:ints=1, groups:int=1
                                      1  nn.functional.conv1d(x, weight, None, stride, padding, dilation, groups)
conv1d_same     conv1d.padding       x, weight, bias, stride:ints=1, padding:text, dilation:ints=1, groups:int=1
                                      1  nn.functional.conv1d(x, weight, bias, stride, padding, dilation, groups)
conv2d          conv2d.default       x, weight, bias, stride:ints=1, padding:ints=0, dilation:ints=1, groups:int=1
                                      1  nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
conv2d_plain    conv2d.default       x, weight, none:none, stride:ints=1, padding:ints=0, dilation:ints=1, groups:int=1
                                      1  nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)
layer_norm      layer_norm.default   x, shape:ints, weight, bias, eps:number=1e-05
                                      1  nn.functional.layer_norm(x, shape, weight, bias, eps)
layer_norm_weight  layer_norm.default  x, shape:ints, weight, none:none, eps:number=1e-05
                                      1  nn.functional.layer_norm(x, shape, weight, None, eps)
layer_norm_plain  layer_norm.default  x, shape:ints, none:none, neither:none, eps:number=1e-05
                                      1  nn.functional.layer_norm(x, shape, None, None, eps)
group_norm      group_norm.default   x, groups:int, weight, bias, eps:number=1e-05
                                      1  nn.functional.group_norm(x, groups, weight, bias, eps)
rms_norm        rms_norm.default     x, shape:ints, weight, eps:number=null           1  nn.functional.rms_norm(x, shape, weight, eps)
rms_norm_plain  rms_norm.default     x, shape:ints, none:none, eps:number=null        1  nn.functional.rms_norm(x, shape, None, eps)
view_as_complex view_as_complex.default  x                                            1  torch.view_as_complex(x)
view_as_real    view_as_real.default x                                                1  torch.view_as_real(x)
polar           polar.default        magnitude, angle                                 1  torch.polar(magnitude, angle)
attend          scaled_dot_product_attention.default
    q, k, v, none:none, dropout:number=0.0, is_causal:flag=false, scale:number=null, enable_gqa:flag=false
    1  nn.functional.scaled_dot_product_attention(q, k, v, None, dropout, is_causal, scale=scale, enable_gqa=enable_gqa)
attend_masked   scaled_dot_product_attention.default
    q, k, v, mask, dropout:number=0.0, is_causal:flag=false, scale:number=null, enable_gqa:flag=false
    1  nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, scale=scale, enable_gqa=enable_gqa)
"""
"""Name, overload, arguments in the schema's order, number of outputs, and how it is written.

What does not fit goes on in an indented line."""

_CONSTANTS: Mapping[str, Any] = {"null": None, "true": True, "false": False, '"constant"': "constant"}


def _argument(text: str) -> Argument:
    name, colon, kind = text.strip().partition(":")
    if name.endswith("*"):
        return Argument(name[:-1], "tensors")
    kind, equals, default = kind.partition("=")
    if not equals:
        return Argument(name, kind if colon else "tensor")
    value = _CONSTANTS[default] if default in _CONSTANTS else float(default) if "." in default else _whole(default)
    return Argument(name, kind, (value,) if kind == "ints" else value, required=False)


def _whole(text: str) -> int | float:
    return float(text) if "e" in text else int(text)


def _functions() -> Iterator[Function]:
    for line in _TABLE.strip().replace("\n ", "  ").splitlines():
        name, target, rest = line.split(maxsplit=2)
        arguments, outputs, text = (part.strip() for part in _columns(rest))
        yield Function(name, f"aten.{target}", tuple(map(_argument, arguments.split(", "))), outputs, text)


def _columns(rest: str) -> tuple[str, str, str]:
    """Arguments, outputs and text, which stand apart by two spaces or more."""
    parts = [part.strip() for part in rest.split("  ") if part.strip()]
    return parts[0], parts[1], "  ".join(parts[2:])


ALL: tuple[Function, ...] = tuple(_functions())

FUNCTIONS: Mapping[str, Function] = {function.name: function for function in reversed(ALL)}
"""By name: the first of those that go by one."""


def is_function(op: str) -> bool:
    """Whether an op is a plain function of torch."""
    return op.startswith(PREFIX)


@lru_cache(maxsize=512)
def function_named(op: str) -> tuple[Function, int] | None:
    """The function behind an op's name and, for lists, how many values it takes or gives; None for no function."""
    name, _, count = op.removeprefix(PREFIX).partition(".")
    function = FUNCTIONS.get(name)
    if function is None or not is_function(op) or bool(count) != function.listed:
        return None
    if not count:
        return function, 0
    if not count.isdecimal() or not 1 <= int(count) <= MOST_VALUES or count != str(int(count)):
        return None
    return function, int(count)


_KINDS = {"int": "integer", "ints": "integers", "dims": "integers"}


@lru_cache(maxsize=512)
def function_op(op: str) -> Op | None:
    """The op that a function is; None where there is none of that name."""
    found = function_named(op)
    if found is None:
        return None
    function, count = found
    inputs: list[str] = []
    settings: dict[str, Setting] = {}
    for argument in function.arguments:
        if argument.kind == "tensor":
            inputs.append(argument.name)
        elif argument.kind == "tensors":
            inputs += [f"{argument.name}_{index}" for index in range(count)]
        elif argument.kind != "none":
            kind: Any = _KINDS.get(argument.kind, argument.kind)
            optional = not argument.required and argument.default is None
            settings[argument.name] = Setting(kind, f"{argument.name} of {function.target}", argument.default, optional)
    outputs = {"1": ("out",), "2": ("values", "indices")}.get(function.outputs)
    return Op(
        name=op,
        title=function.name,
        group="function",
        summary=f"The function {function.target} of torch.",
        inputs=tuple(inputs),
        outputs=outputs or tuple(f"out_{index}" for index in range(count)),
        settings=settings,
        recover=_nothing,
    )


def _nothing(facts: Facts) -> tuple[Shape, ...]:
    """What it would give with other settings is not known."""
    return ()


__all__ = [
    "ALL",
    "FUNCTIONS",
    "PREFIX",
    "RUN_TIME",
    "Argument",
    "Function",
    "function_named",
    "function_op",
    "is_function",
]
