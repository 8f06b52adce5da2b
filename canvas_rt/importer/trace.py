"""Trace a transformers model into graphs, one per module, with attention, rotary embeddings and experts as single nodes."""

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, fx, nn

from canvas_rt.importer.forms import USUAL, form_of
from canvas_rt.importer.rotary import rotary_as_one_node
from canvas_rt.importer.seen import Visible, read
from canvas_rt.importer.whole import Gives, as_one_node, observed
from canvas_rt.ir.tasks import CAUSAL_LM, Task
from canvas_rt.ops.class_text import class_text
from canvas_rt.ops.inputs import given_dtype, given_shapes
from canvas_rt.ops.modules import keeps_state

TRACED = "canvas"
"""The name under which our functions for attention, masks and experts are registered with transformers."""

_library: Any = torch.library.Library("canvas_rt", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? sinks, Tensor? bias, float scale, bool causal, int? window,"
    " int? chunk, float? softcap, float dropout, str scaling, str precision, str sharing)"
    " -> Tensor"
)
_library.define("mask(int[] shape, str kind, int size, ScalarType dtype, Device device) -> Tensor")
_library.define("experts(Tensor x, Tensor indices, Tensor weights) -> Tensor")
_library.define("stateful(Tensor x) -> Tensor")


def _attention_shape(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> Tensor:
    return q.new_ones(q.shape[0], q.shape[2], q.shape[1], v.shape[-1])


def _mask_shape(shape: list[int], kind: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def _like_first(x: Tensor, *others: Tensor) -> Tensor:
    return torch.empty_like(x)


# The tracer asks only for shapes; numbers come from canvas_rt.ops.kernels.
_library.impl("attention", _attention_shape, "CompositeExplicitAutograd")
_library.impl("mask", _mask_shape, "CompositeExplicitAutograd")
_library.impl("experts", _like_first, "CompositeExplicitAutograd")
_library.impl("stateful", _like_first, "CompositeExplicitAutograd")


class TraceError(Exception):
    """The model cannot be traced as it is."""

    module: str | None = None
    """The path of the module at fault, where that is known."""


_GRID = 640
"""Positions at which a mask is looked at: more than any window of a probe."""

_observing: list[bool] = []
"""Not empty while a model only runs to show what its modules give: whether masks must be those that Canvas makes."""

_looked: list[Visible] = []
"""What masks let through, in the order in which the model at hand made them when it ran: a trace has no numbers to tell by."""

_visible: dict[int, tuple[Tensor, Visible]] = {}
"""What each mask made during the trace at hand lets through, by the tensor's identity."""

_KNOWN_KEYWORDS = frozenset(
    {"position_ids", "use_cache", "return_dict", "logits_to_keep", "cache_position", "output_attentions"}
    | {"output_hidden_states", "output_router_logits", "labels", "input_ids", "inputs_embeds", "deterministic"}
)
"""What attention functions are passed along without a use for it."""


def _traced_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    bias: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    bias = position_bias if bias is None else bias  # two names of one thing
    effective = {name for name, given in kwargs.items() if given is not None and name not in _KNOWN_KEYWORDS}
    if effective and not _observing:
        raise TraceError(f"attention takes {', '.join(sorted(effective))}, which Canvas does not know")
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    seen = _seen(attention_mask, Visible(bool(causal), sliding_window))
    trained = _trained_dropout(module)
    scale = float(scaling if scaling is not None else query.shape[-1] ** -0.5)
    cap = None if softcap is None else float(softcap)
    form = form_of(module)
    if form is None and not _observing:
        raise TraceError(f"the attention of {type(module).__name__} computes its scores or shares in a way of its own")
    settings = scale, seen.causal, seen.window, seen.chunk, cap, trained, *(form or USUAL)
    return torch.ops.canvas_rt.attention(query, key, value, s_aux, bias, *settings), None


_PASSED = re.compile(
    r"dropout=(?:0\.0 if not self\.training else self\.([\w.]+)|self\.([\w.]+) if self\.training else 0\.0)"
)


def _trained_dropout(module: nn.Module) -> float:
    """The share of scores that an attention drops in training. A model in eval mode passes none: its code says which it would."""
    calls = filter(
        None, (_PASSED.search(class_text(cls)) for cls in type(module).__mro__ if issubclass(cls, nn.Module))
    )
    call = next(calls, None)
    value: Any = module
    for part in ("attention_dropout" if call is None else call[1] or call[2]).split("."):
        value = getattr(value, part, None)
    return float((value.p if isinstance(value, nn.Dropout) else value) or 0.0)


def _seen(mask: Tensor | None, otherwise: Visible) -> Visible:
    """What a mask lets through; without one, what the attention is called with."""
    if mask is None:
        return otherwise
    known = _visible.get(id(mask))
    if known is not None:
        return known[1]
    if True in _observing and (not mask.is_floating_point() or bool(mask.any())):
        raise TraceError("attention takes a mask that the model made of its values")
    kinds = {visible for _, visible in _visible.values()}
    if otherwise in kinds and any(mask.shape == one.shape for one, _ in _visible.values()):
        return otherwise  # a part of a mask that is all of it
    if len(kinds) != 1:
        raise TraceError("attention takes a mask that the model made by itself")
    return next(iter(kinds))


def _traced_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    dtype: torch.dtype = torch.float32,
    device: Any = None,
    **kwargs: Any,
) -> Tensor:
    """A mask as one node: what it lets through is told by looking."""
    visible = _look(mask_function, kv_length) if _observing or not _looked else _looked.pop(0)
    if _observing:
        _looked.append(visible)
    kind, size = visible.named
    shape = [batch_size, 1, int(q_length), int(kv_length)]
    mask: Tensor = torch.ops.canvas_rt.mask(shape, kind, size, dtype, torch.device(device or "cpu"))
    _visible[id(mask)] = mask, visible
    return mask


def _look(mask_function: Callable[..., Tensor], length: int) -> Visible:
    """What a mask function lets through, told by what it says of every pair of the first positions.

    Where it knows of no more than those of the sequence at hand, of these.
    """
    # A thread of its own has none of the modes under which the trace runs: there these are plain numbers.
    with ThreadPoolExecutor(max_workers=1) as apart:
        try:
            found = apart.submit(_read_mask, mask_function, _GRID).result()
        except IndexError:
            found = apart.submit(_read_mask, mask_function, int(length)).result()
    if found is None:
        raise TraceError("a mask lets through what is neither causal, a window nor a chunk")
    return found


def _read_mask(mask_function: Callable[..., Tensor], length: int) -> Visible | None:
    place = torch.arange(length)
    zero = torch.zeros((), dtype=torch.long)
    query, key = place[:, None], place[None, :]
    seen = torch.broadcast_to(torch.as_tensor(mask_function(zero, zero, query, key)), (length, length))
    return read(seen)


@contextlib.contextmanager
def _one_sequence_each() -> Iterator[None]:
    """While tracing, rows hold one sequence each: transformers would look into positions for several."""
    from transformers import masking_utils

    before = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda *args, **kwargs: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = before


def _traced_experts(module: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Which tokens an expert serves depends on data: what the module computes is told by running it (`rules.py`)."""
    return torch.ops.canvas_rt.experts(hidden_states, top_k_index, top_k_weights)  # type: ignore[no-any-return]


def register_functions() -> None:
    """Tell transformers of our functions, through its public extension points."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(TRACED, _traced_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(TRACED, _traced_mask)
    ALL_EXPERTS_FUNCTIONS.register(TRACED, _traced_experts)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the chatter of torch and transformers about small random models from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)  # torch reports as errors what it then raises
    nothing = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _without_origins() -> Iterator[None]:
    """While tracing, nodes do not note the line of code that each comes from: nobody asks, and it is a fifth of the time."""
    from torch.fx import config

    before = config.do_not_emit_stack_traces
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


@contextlib.contextmanager
def _unwritten() -> Iterator[None]:
    """While modules get graphs of their own, none is written as code: they are read, and never run."""
    before = fx.GraphModule.recompile
    fx.GraphModule.recompile = lambda self: None  # type: ignore[method-assign,assignment,return-value]
    try:
        yield
    finally:
        fx.GraphModule.recompile = before  # type: ignore[method-assign]


@contextlib.contextmanager
def _stateful_as_one_node(model: nn.Module) -> Iterator[None]:
    """While tracing, a module that keeps a state is one op: its loops over the sequence would unroll."""
    replaced = [module for module in model.modules() if keeps_state(type(module))]
    for module in replaced:
        module.forward = lambda hidden_states, *args, **kwargs: torch.ops.canvas_rt.stateful(hidden_states)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


@contextlib.contextmanager
def entered(model: nn.Module) -> Iterator[list[nn.Module]]:
    """The modules that a run is in, the innermost last."""
    within: list[nn.Module] = []
    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(lambda m, args: within.append(m)))
        handles.append(module.register_forward_hook(lambda m, args, result: _left(within, m)))
    try:
        yield within
    finally:
        for handle in handles:
            handle.remove()


def _left(within: list[nn.Module], module: nn.Module) -> None:
    while within and within.pop() is not module:
        pass


def _observed(model: nn.Module, whole: Collection[type], given: dict[str, Any]) -> dict[nn.Module, Gives]:
    """What modules that are kept whole give, told by running the model. Masks are zeros then: no other may be attended by."""
    _looked.clear()
    _observing.append(not whole)  # what is kept whole may make what it wants
    try:
        return observed(model, whole, given)
    except TraceError:
        raise
    except Exception:  # numbers are not those of a real run
        _looked.clear()
        if whole:
            raise
        return {}
    finally:
        _observing.pop()
        _visible.clear()


def length_of(graphs: nn.Module) -> int:
    """How many positions a traced model attends to; 0 where it does not attend."""
    nodes = [
        node
        for module in graphs.modules()
        if isinstance(graph := getattr(module, "graph", None), fx.Graph)
        for node in graph.nodes
    ]
    found = [
        node.args[0].meta["val"].shape[2] for node in nodes if node.target is torch.ops.canvas_rt.attention.default
    ]
    # Where attention is written by hand, its shares tell: one for each pair of positions.
    shares = [node.meta["val"].shape for node in nodes if node.target is torch.ops.aten.softmax.int]
    found += [shape[-1] for shape in shares if len(shape) == 4 and shape[-1] == shape[-2]]
    return int(next(iter(found), 0))


def inputs_for(model: nn.Module, lengths: tuple[int, int, int], task: Task) -> dict[str, Any]:
    """What a model is given to be traced: zeros, and no cache. `lengths` as of `trace`."""
    first = next(model.parameters())
    taken = inspect.signature(model.forward).parameters.values()
    also = (name for name in (task.decodes, *task.also) if name in {argument.name for argument in taken})
    shapes = given_shapes(task, (task.takes, *also), getattr(getattr(model, "config", None), "__dict__", {}), lengths)
    dtype = given_dtype(task, first.dtype)
    given: dict[str, Any] = {
        name: torch.zeros(shape, dtype=dtype, device=first.device) for name, shape in shapes.items()
    }
    if task.of_tokens and any(
        argument.name == "use_cache" or argument.kind is argument.VAR_KEYWORD for argument in taken
    ):
        given["use_cache"] = False
    return given


@contextlib.contextmanager
def made_ready(model: nn.Module) -> Iterator[None]:
    """While a model is looked at: what is one node is one function, and dtypes are the model's own."""
    previous = torch.get_default_dtype()
    try:
        with quiet(), torch.no_grad(), rotary_as_one_node(model), _stateful_as_one_node(model), _one_sequence_each():
            torch.set_default_dtype(next(model.parameters()).dtype)
            yield
    finally:
        _visible.clear()
        _looked.clear()
        torch.set_default_dtype(previous)


def trace(
    model: nn.Module, lengths: tuple[int, int, int], whole: Collection[type] = (), task: Task = CAUSAL_LM
) -> nn.Module:
    """The model as `torch.export` sees it, unflattened into its module hierarchy: every module has its own graph.

    `lengths`: sequences, tokens of each, and what an encoder reads of each. Modules of the classes in `whole` are one op
    each, whatever they do.
    Raises `TraceError` with torch's own reason where the model's control flow depends on data.
    """
    given = inputs_for(model, lengths, task)
    within: list[nn.Module] = []
    try:
        with made_ready(model):
            with entered(model) as within:
                gives = _observed(model, whole, given)
                within.clear()
                with as_one_node(gives, _seen), _without_origins():
                    program = torch.export.export(model, (), kwargs=given, strict=False)
            with _unwritten():
                return torch.export.unflatten(program)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        failed = error if isinstance(error, TraceError) else TraceError(f"torch.export: {reason[0][:300]}")
        paths = {module: path for path, module in model.named_modules()}
        failed.module = paths.get(within[-1]) if within else None
        raise failed from error
