"""Modules of transformers that are kept whole: those with a state of their own, and those that no trace can follow."""

import importlib
import inspect
import keyword
import math
import re
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import _disable_current_modes

from canvas_rt.errors import CanvasError
from canvas_rt.ir.expressions import is_expression
from canvas_rt.ir.frozen import FrozenMap, freeze, thaw
from canvas_rt.ops.class_text import class_text
from canvas_rt.ops.kernels import Context, Values, attention_mask
from canvas_rt.ops.learned import MODULE_PORTS
from canvas_rt.ops.op import Problem, Shape

STATES = ("update_conv_state(", "update_recurrent_state(")
"""What a module calls that keeps a state in transformers' cache."""

CACHES = ("past_key_values", "past_key_value", "cache_params")
"""What modules call the cache that they are given."""

PACKAGE = "transformers.models"


def source_name(cls: type) -> str:
    """A class of transformers as documents name it: `mamba2.Mamba2Mixer`. Empty for any other class."""
    package, _, _ = cls.__module__.rpartition(".modeling_")
    folder = package.removeprefix(f"{PACKAGE}.")
    return f"{folder}.{cls.__name__}" if package.startswith(f"{PACKAGE}.") and "." not in folder else ""


def keeps_state(cls: type) -> bool:
    """Whether modules of a class carry a state of their own along the sequence, as state-space and linear attention do."""
    return _keeps_state(cls)


@lru_cache(maxsize=512)
def calls_for_state(cls: type) -> bool:
    """Whether the code of a class of transformers asks the cache for a state, or gives it one."""
    if not source_name(cls) or not issubclass(cls, nn.Module):
        return False
    text = class_text(cls)
    return any(call in text for call in STATES)


@lru_cache(maxsize=512)
def _keeps_state(cls: type) -> bool:
    if not calls_for_state(cls):
        return False
    forward: Any = getattr(cls, "forward", None)
    required = [
        p
        for p in inspect.signature(forward).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    return len(required) == 2  # itself, and one value


def is_keepable(cls: type) -> bool:
    """Whether a module of a class can be made from a config alone, and so be kept whole."""
    if not source_name(cls) or not issubclass(cls, nn.Module) or hasattr(cls, "from_pretrained"):
        return False
    _, *taken = inspect.signature(cls.__init__).parameters.values()
    return bool(taken) and taken[0].name == "config" and not made_with_more(cls)


def made_with_more(cls: Any) -> tuple[str, ...]:
    """What a module of a class cannot be made without, beside its config and its place among the layers."""
    _, *taken = inspect.signature(cls.__init__).parameters.values()
    named = (p.name for p in taken if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)
    return tuple(name for name in named if name not in ("config", "layer_idx"))


@lru_cache(maxsize=128)
def module_class(source: str) -> type[nn.Module]:
    """The class behind a name. Raises `CanvasError` for what is no module of transformers that can be kept whole."""
    folder, _, name = source.partition(".")
    if folder.isidentifier() and name.isidentifier():
        try:
            found: Any = getattr(importlib.import_module(f"{PACKAGE}.{folder}.modeling_{folder}"), name, None)
        except ImportError:
            found = None
        named = isinstance(found, type) and issubclass(found, nn.Module) and source_name(found) == source
        if named and (keeps_state(found) or is_keepable(found)):
            return found  # type: ignore[no-any-return]
    raise CanvasError(
        f"{source[:80]!r} is no module of transformers that can be kept whole", hint="As in `mamba2.Mamba2Mixer`."
    )


@lru_cache(maxsize=128)
def config_class(source: str) -> Any:
    """The config class of the module behind a name: the first of its folder that has all that the module reads."""
    from transformers import PretrainedConfig

    folder = source.partition(".")[0]
    read = _read(source)
    try:
        module = importlib.import_module(f"{PACKAGE}.{folder}.configuration_{folder}")
    except ImportError:
        module = None
    classes = [c for c in vars(module or object).values() if isinstance(c, type) and issubclass(c, PretrainedConfig)]
    own = [cls for cls in classes if cls.__module__ == f"{PACKAGE}.{folder}.configuration_{folder}"]
    if not own:
        raise CanvasError(f"{source} has no config of its own", hint="As in `mamba2.Mamba2Mixer`.")
    return max(own, key=lambda cls: len(read & _fields(cls)))


@lru_cache(maxsize=128)
def initialiser(source: str) -> tuple[str, tuple[str, ...]]:
    """The class that gives a module fresh weights, such as `Mamba2PreTrainedModel`, and what of a config it reads for that.

    Empty where the model that the module is from does no more than any model does.
    """
    from transformers import PreTrainedModel

    made_in = importlib.import_module(module_class(source).__module__)
    for name, cls in vars(made_in).items():
        own = isinstance(cls, type) and issubclass(cls, PreTrainedModel) and cls.__module__ == made_in.__name__
        if own and "_init_weights" in vars(cls):
            text = inspect.getsource(cls._init_weights)
            read = re.findall(r"self\.config\.(\w+)|getattr\(self\.config, .(\w+)", text)
            named = {"initializer_range", *(one or other for one, other in read)}
            return name, tuple(sorted(named & _fields(config_class(source))))
    return "", ()


@lru_cache(maxsize=128)
def cache_argument(source: str) -> str:
    """What a module calls the cache that it is given; empty where it takes none."""
    return next((name for name in CACHES if name in arguments_of(source)), "")


@lru_cache(maxsize=128)
def arguments_of(source: str) -> tuple[str, ...]:
    """What a module's `forward` may be given by name."""
    forward: Any = module_class(source).forward
    taken = list(inspect.signature(forward).parameters.values())[1:]
    return tuple(p.name for p in taken if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))


@lru_cache(maxsize=128)
def made_with(source: str) -> tuple[str, ...]:
    """What beside its config a module is made with: its place among the layers, and a flag against initialising twice."""
    known = inspect.signature(module_class(source).__init__).parameters
    return tuple(name for name in ("layer_idx", "initialize_mixer_weights") if name in known)


def _fields(cls: type) -> set[str]:
    return {name for base in cls.__mro__ for name in getattr(base, "__annotations__", {})}


@lru_cache(maxsize=128)
def _code(source: str) -> str:
    """A module's code, with that of the classes and functions of its file which it uses."""
    cls = module_class(source)
    known = vars(importlib.import_module(cls.__module__))
    texts: dict[str, str] = {}
    todo = [cls.__name__]
    while todo:
        name = todo.pop()
        found = known.get(name)
        if name not in texts and (isinstance(found, type) or inspect.isfunction(found)):
            texts[name] = _source_of(found) if found.__module__ == cls.__module__ else ""
            todo += re.findall(r"\b[A-Za-z_]\w+\b", texts[name])
    return "".join(texts.values())


def _source_of(found: Any) -> str:
    if isinstance(found, type):
        return class_text(found)
    try:
        return inspect.getsource(found)
    except OSError:  # it is defined where `inspect` does not find it
        return ""


def _read(source: str) -> set[str]:
    """The names that a module's code reads from a config."""
    return set(re.findall(r"config(?:\.|, \")([a-z]\w*)", _code(source)))


def keeps_index(source: str) -> bool:
    """Whether a module keeps keys by which it chooses tokens in the cache, beside those that it attends to."""
    return "update_indexer(" in _code(source)


@lru_cache(maxsize=128)
def fields_read(source: str) -> tuple[str, ...]:
    """The fields of its config that a module reads, as its class says."""
    config = config_class(source)
    read = {config.attribute_map.get(name, name) for name in _read(source)} - NOT_ITS_OWN
    known = _fields(config)
    through = {name for name in read - known if isinstance(getattr(config, name, None), property)}
    for name in through:
        read |= set(re.findall(r"self\.([a-z]\w*)", inspect.getsource(getattr(config, name).fget)))
    made = inspect.getsource(config.__post_init__)
    if read - known - through or read & set(
        re.findall(r"self\.(\w+) = ", made)
    ):  # what the config works out when it is made
        read |= set(re.findall(r"self\.([a-z]\w*)", made))
    if sets_layers_apart(source):  # whose numbers must fit one another
        read |= set(re.findall(r"(?:self|config)\.([a-z]\w*)", inspect.getsource(config.validate_architecture)))
    return tuple(sorted((read & known) - NOT_ITS_OWN))


@lru_cache(maxsize=128)
def sets_layers_apart(source: str) -> bool:
    """Whether a module's config gives some layers sizes for themselves, unless it is told that there are none such."""
    config = config_class(source)
    return hasattr(config, "validate_architecture") and "per_layer_config" in class_text(config)


@lru_cache(maxsize=128)
def read_by_layer(source: str) -> tuple[str, ...]:
    """The lists in its config of which a module reads what stands for its own layer: a document says that alone."""
    found = set(re.findall(r"config\.([a-z]\w*)\[(?:self\.)?layer_idx\]", _code(source)))
    return tuple(sorted((found & _fields(config_class(source))) - {"per_layer_config"}))


@lru_cache(maxsize=128)
def beside(source: str, field: str, own: Any) -> Any:
    """What other layers are in a list of a module's config beside its own: the same, unless the config refuses that."""
    usual = getattr(config_class(source)(), field, None)
    others = [own, *(usual if isinstance(usual, list | tuple) else ())]
    return next((other for other in others if _takes(source, field, [own, other])), own)


@lru_cache(maxsize=128)
def lists_needed(source: str) -> Mapping[str, Any]:
    """What a module's config lists layer by layer, where it refuses another depth than its usual one without: the first of each."""
    config = config_class(source)
    try:
        config(num_hidden_layers=2)
    except Exception:  # in whatever way a class says that it does not
        usual = config()
        lists = {name: getattr(usual, name, None) for name in sorted(_fields(config))}
        depth = usual.num_hidden_layers
        return {name: value[0] for name, value in lists.items() if isinstance(value, list) and len(value) == depth > 0}
    return {}


def _takes(source: str, field: str, listed: list[Any]) -> bool:
    try:
        config_class(source)(**{field: listed, "num_hidden_layers": len(listed)})
    except Exception:  # in whatever way a class says that it does not
        return False
    return True


NOT_ITS_OWN = frozenset({"layer_types", "num_hidden_layers", "dtype"})
"""What a module reads of the model at large."""


def flaw(attrs: Mapping[str, Any]) -> Problem | None:
    """What is wrong with the settings of a module kept whole, and a way out: a document may come from a stranger."""
    source, fields = attrs["source"], attrs["fields"]
    try:
        known, taken = fields_read(source), arguments_of(source)
    except CanvasError as error:
        return error.message, error.hint
    strange = next((name for name in fields if name not in known), None)
    strange = strange or next((n for n in attrs["by_layer"] if n not in (*known, *read_by_layer(source))), None)
    if strange is not None:
        return f"{source} reads no field '{strange[:60]}'", f"It reads: {', '.join(known)}."
    if not attrs["arguments"] and not keeps_state(module_class(source)):
        return f"{source} must be told what it is given", f"Name its `arguments`, of: {', '.join(taken)}."
    given = [*named_arguments(attrs), *([(attrs["mask"], None)] if attrs["mask"] else [])]
    strange = next((name for name, _ in given if name not in taken), None)
    if strange is not None:
        return f"{source} takes no argument '{strange[:60]}'", f"It takes: {', '.join(taken)}."
    for name, parts in attrs["buffers"].items():
        if not _is_buffer_name(name) or not _says_buffer(parts):
            return (
                f"the tensor {name[:60]!r} is not said in parts",
                "Give `sizes` and `values` of its parts, and `rank`.",
            )
    if type(attrs["place"]) is not int:
        return f"place = {attrs['place']} must be written out", "Give a number; -1 where the module gives one value."
    for key, shape in attrs["keys"].items():
        if not isinstance(shape, tuple) or not all(isinstance(size, int) for size in shape):
            return f"the shape of {key[:60]} must be a list of sizes", "Write the size of each dimension."
    return None


def _is_buffer_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and not hasattr(nn.Module, name)


def _says_buffer(parts: Any) -> bool:
    """Whether a tensor is said as `buffer_of` reads it."""
    if not isinstance(parts, Mapping) or parts.keys() != {"sizes", "values", "rank"}:
        return False
    sizes, values, rank = (parts[name] for name in ("sizes", "values", "rank"))
    if not isinstance(sizes, tuple | list) or not isinstance(values, tuple | list) or len(sizes) != len(values):
        return False
    sizes, values = ([one for one in listed if not is_expression(one)] for listed in (sizes, values))
    whole = all(type(size) is int and 0 < size <= MOST_ELEMENTS for size in sizes)
    finite = all(type(value) in (int, float) and math.isfinite(value) for value in values)
    return whole and finite and sum(sizes) <= MOST_ELEMENTS and type(rank) is int and 1 <= rank <= MOST_DIMENSIONS


MOST_ELEMENTS, MOST_DIMENSIONS = 2**20, 8
"""Of a tensor said in parts: how many numbers it may hold, in how many dimensions."""


@lru_cache(maxsize=128)
def attends_by(source: str) -> Mapping[str, bool]:
    """Which implementations of attention the models have that a module is of, and whether they always make a mask."""
    module = importlib.import_module(module_class(source).__module__)
    bases = [c for n, c in vars(module).items() if n.endswith("PreTrainedModel") and c.__module__ == module.__name__]
    names = ("_supports_flash_attn", "_supports_sdpa", "_supports_flex_attn")
    found = {name: all(getattr(base, name, False) for base in bases) for name in names}
    return {**found, "always": "allow_is_causal_skip" in inspect.getsource(module)}


def named_arguments(attrs: Mapping[str, Any]) -> tuple[tuple[str, int | None], ...]:
    """What a module is given, in the order of its ports: an argument's name, and a place where it takes several values."""
    found = []
    for text in attrs["arguments"].split(",") if attrs["arguments"] else ():
        name, _, place = text.partition(".")
        found.append((name, int(place) if place.isdecimal() else None))
    return tuple(found)


@lru_cache(maxsize=64)
def _made(source: str, fields: FrozenMap[str, Any], by_layer: FrozenMap[str, Any], device: str) -> nn.Module:
    cls: Any = module_class(source)
    # As if it stood in a model of few layers.
    lists = {name: [value, beside(source, name, by_layer[name])] for name, value in thaw(by_layer).items()}
    more: dict[str, Any] = {"num_hidden_layers": 2} if lists else {}
    more |= {"per_layer_config": {}} if sets_layers_apart(source) else {}
    config = config_class(source)(**thaw(fields), **lists, **more)
    config._attn_implementation = "eager"
    own = {"layer_idx": 0, "initialize_mixer_weights": False}
    with torch.device(device):
        made: nn.Module = cls(config, **{name: own[name] for name in made_with(source)})
    return made.eval().requires_grad_(False)


def run_module(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> tuple[Tensor, ...]:
    """What the module gives without a state before it, in the shape of what it is given first."""
    x = inputs["x"]
    if context.backend == "shape" and not attrs["arguments"]:
        return (torch.empty_like(x),)
    found = flaw({**attrs, "keys": {}})
    if found is not None:
        raise CanvasError(found[0], hint=found[1])
    with _in_use:  # a run puts parameters into the module, which all runs of such sizes share
        return (_run(inputs, attrs, parameters, context),)


_in_use = threading.RLock()


def _run(inputs: Values, attrs: Mapping[str, Any], parameters: Values, context: Context) -> Tensor:
    x = inputs["x"]
    said = freeze(attrs["fields"]), freeze(attrs["by_layer"]), attrs["buffers"]
    module = _with_buffers(attrs["source"], *said, context.device)
    if not attrs["arguments"]:
        state = _state_after(attrs["source"], module, parameters, x) if context.past else {}
        return functional_call(module, dict(parameters), (x,), state)  # type: ignore[no-any-return]
    given: dict[str, Any] = {}
    fed = [inputs[port] for port in MODULE_PORTS if port in inputs]
    for (name, place), value in zip(named_arguments(attrs), fed, strict=True):
        given[name] = value if place is None else (*given.get(name, ()), value)
    if attrs["mask"]:
        given[attrs["mask"]] = _mask(x, attrs)
    try:
        result = functional_call(module, dict(parameters), (), given)
    except (NotImplementedError, RuntimeError) as error:
        if not x.is_meta or not ("meta" in str(error) or isinstance(error, NotImplementedError)):
            raise
        context.untold.append(attrs["source"])  # what it does depends on numbers, which meta has not
        return x.clone()
    own: Tensor = result if attrs["place"] < 0 else result[attrs["place"]]
    return own


def _with_buffers(
    source: str,
    fields: FrozenMap[str, Any],
    by_layer: FrozenMap[str, Any],
    buffers: Mapping[str, Any],
    device: torch.device,
) -> nn.Module:
    """A module with the tensors that it is given. Raises `CanvasError` for sizes of which there is none."""
    try:
        with _disable_current_modes():  # its own fresh weights are none of a run's
            module = _made(source, fields, by_layer, device.type)
        for name, parts in buffers.items():
            module.register_buffer(name, buffer_of(parts, device), persistent=False)
    except Exception as error:  # what a class has to say against such sizes, it says in its own way
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CanvasError(f"{source} cannot be made: {reason}", hint="Set its sizes otherwise.") from error
    return module


def _state_after(source: str, module: nn.Module, parameters: Values, x: Tensor) -> dict[str, Any]:
    """The argument by which a module goes on after tokens that it has seen: what it keeps of them is of one size, however many."""
    from transformers.cache_utils import DynamicCache, LinearAttentionLayer

    argument = cache_argument(source)
    if not argument:
        return {}
    own = getattr(module, "config", None)
    cache: Any = DynamicCache()
    cache.layers = [LinearAttentionLayer(number_of_states=getattr(own, "number_of_conv_states", 1))]
    with _disable_current_modes(), torch.no_grad():  # that it saw them is no part of this run
        functional_call(module, dict(parameters), (x.new_zeros(x.shape[0], SEEN, x.shape[2]),), {argument: cache})
    return {argument: cache}


SEEN = 8
"""Tokens that a module has seen when it goes on."""


def states_kept(
    attrs: Mapping[str, Any], batch: int, width: int, dtype: torch.dtype
) -> tuple[tuple[Shape, torch.dtype], ...]:
    """What a module keeps of the tokens that it has seen, however many: shapes and numbers. Nothing where it keeps none."""
    if attrs["arguments"] or flaw({**attrs, "keys": {}}) is not None:
        return ()
    said = freeze(attrs["fields"]), freeze(attrs["by_layer"]), freeze(attrs["buffers"])
    return _states_kept(attrs["source"], *said, batch, width, dtype)


@lru_cache(maxsize=256)
def _states_kept(
    source: str,
    fields: FrozenMap[str, Any],
    by_layer: FrozenMap[str, Any],
    buffers: FrozenMap[str, Any],
    batch: int,
    width: int,
    dtype: torch.dtype,
) -> tuple[tuple[Shape, torch.dtype], ...]:
    with _in_use, _disable_current_modes():
        module = _with_buffers(source, fields, by_layer, buffers, torch.device("meta"))
        parameters = {name: torch.empty_like(p, dtype=dtype) for name, p in module.named_parameters()}
        after = _state_after(source, module, parameters, torch.empty(batch, 1, width, dtype=dtype, device="meta"))
    states = [
        table
        for cache in after.values()
        for layer in cache.layers
        for table in (layer.conv_states, layer.recurrent_states)
    ]
    return tuple((tuple(one.shape), one.dtype) for table in states for one in table.values() if one is not None)


def buffer_of(parts: Mapping[str, Any], device: torch.device) -> Tensor:
    """A tensor that holds each number as often as its part is long, along the last of its dimensions."""
    sizes = torch.tensor(parts["sizes"], device=device)
    total = sum(parts["sizes"])  # which meta could not tell
    numbers = torch.tensor(parts["values"], dtype=torch.float32, device=device)
    numbers = numbers.repeat_interleave(sizes, output_size=total)
    return numbers.view(*[1] * (parts["rank"] - 1), -1)


def _mask(x: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    """What eager attention adds to its scores. [batch, 1, seq, seq]"""
    causal, window, chunk = attrs["causal"], attrs["window"], attrs["chunk"]
    seen = attention_mask(x.shape[1], x.shape[1], window, x.device, causal=causal, chunk=chunk)
    hidden = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill(~seen, torch.finfo(x.dtype).min)
    return hidden.expand(x.shape[0], -1, -1, -1)


__all__ = [
    "CACHES",
    "arguments_of",
    "attends_by",
    "beside",
    "buffer_of",
    "cache_argument",
    "config_class",
    "fields_read",
    "flaw",
    "is_keepable",
    "keeps_index",
    "keeps_state",
    "lists_needed",
    "made_with",
    "module_class",
    "named_arguments",
    "read_by_layer",
    "run_module",
    "sets_layers_apart",
    "source_name",
    "states_kept",
]
