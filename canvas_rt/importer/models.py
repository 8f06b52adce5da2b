"""The models that a config makes for an import: small ones at unlike sizes, and the original at its real sizes on meta."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from canvas_rt.errors import UnsupportedModelError
from canvas_rt.importer.config.fields import LAYERS
from canvas_rt.importer.factory import Factory, field_values, make_config, make_model
from canvas_rt.importer.kinds import cut_to_kinds, layer_kinds, members_of, places, stacks_of
from canvas_rt.importer.probes import inputs_of, is_probed, probe_assignments, probe_override
from canvas_rt.ops.functions import RUN_TIME

ROPE = "rope_parameters"


class Models:
    """What a config says, and the models that its class makes of it."""

    def __init__(self, factory: Factory, raw: Mapping[str, Any], name: str, pinned: Collection[str] = ()) -> None:
        self.factory = factory
        self.raw = raw
        self.name = name
        self.config = make_config(factory, without_layers(raw), name)
        self.overwritten: tuple[str, ...] = ()
        """Fields that the config's class sets to something else, once it has read them."""
        self.values: dict[str, Any] = self.given()
        if "is_encoder_decoder" in self.values:
            self.values["is_encoder_decoder"] = bool(self.factory.task.decodes)  # a decoder by itself is none
        self.pinned = pinned
        # A class may work out what layers have for themselves from fields of its own.
        by_layer = raw.get("per_layer_config") or self.config.to_dict().get("per_layer_config") or {}
        self.overrides = {int(layer): dict(own) for layer, own in by_layer.items()}
        if not isinstance(self.values.get("num_hidden_layers"), int):
            raise UnsupportedModelError("its config does not say how many layers it has", path=name)
        self.depth = int(self.values["num_hidden_layers"])
        self.counts = {field: value for field, value in self.values.items() if self.is_depth(field, value)}
        """Fields that count layers: more than one where an encoder has its own."""
        self.assignments = self.probes()
        """What the config's numbers are in each probe."""
        self.standing: dict[str, tuple[int, ...]] = {}
        """For each stack, the layer that stands for each layer of the real model."""
        self.hands_on = False
        """Whether layers hand values to later ones, so that two of each kind must be traced."""
        self.keep_count = False
        """Whether what stands outside the layers goes by their number, so that a model with fewer must go on saying it."""

    def given(self) -> dict[str, Any]:
        """The config's values. Where its class overwrites one that it reads first, what was given: else it would be another."""
        values, made = field_values(self.config, self.factory.task), self.config.to_dict()
        known = without_layers(self.raw)
        if make_config(self.factory, {**known, **values}, self.name).to_dict() == made:
            return values
        defaults = {field: getattr(type(self.config), field, None) for field in values}
        for field, given in {**defaults, **known}.items():
            if values.get(field) != given and is_probed(field, given):
                restored = {**values, field: given}
                if make_config(self.factory, {**known, **restored}, self.name).to_dict() == made:
                    self.overwritten = (field,)
                    return restored
        if known.get("tie_word_embeddings") is False and values.get("tie_word_embeddings"):
            reason = "its class ties embeddings whatever its config says, and takes that for something else"
            raise UnsupportedModelError(reason, path=f"{self.name}: tie_word_embeddings")
        return values

    def is_depth(self, field: str, value: Any) -> bool:
        """Whether a field says how many layers there are."""
        if field == "num_hidden_layers":
            return True
        whole = isinstance(value, int) and not isinstance(value, bool)
        return bool(self.factory.task.decodes) and whole and re.fullmatch(LAYERS, field) is not None

    def at_depth(self, depth: int) -> dict[str, int]:
        """The fields that count layers, where no more are to be made than so many."""
        return {field: min(count, depth) for field, count in self.counts.items()}

    def probes(self, builds: Callable[[Mapping[str, Any]], bool] | None = None) -> tuple[dict[str, Any], ...]:
        """What the config's numbers are in each probe."""
        model_type = str(self.config.model_type)
        return probe_assignments(self.values, self.pinned, self.overrides.values(), model_type, builds)

    def probe_overrides(self, probe: int) -> dict[int, dict[str, Any]]:
        """What layers have for themselves, in a probe: unlike every size of the model at large.

        Values that were equal stay equal, so that layers alike remain alike.
        """
        unlike: dict[tuple[str, Any], Any] = {}
        result: dict[int, dict[str, Any]] = {}
        for layer, own in self.overrides.items():
            result[layer] = {}
            for field, value in own.items():
                if not is_probed(field, value) or self.turns_by_type:
                    result[layer][field] = value
                    continue
                ranked = probe_override(field, value, probe, self.values, self.overrides.values())
                if ranked is not None:
                    unlike[field, value] = ranked
                elif (field, value) not in unlike:
                    step = len(unlike) + 1
                    base = self.assignments[probe].get(field, 16)
                    if field == "num_key_value_heads":
                        unlike[field, value] = self.assignments[probe]["num_attention_heads"] * (step + 1)
                    else:
                        # Not by one rule from probe to probe: nothing else must follow what layers have for themselves.
                        apart = 0 if field == "num_attention_heads" else 2 * step * (1 + probe * probe)
                        unlike[field, value] = base * (2 * step + 1) + apart
                result[layer][field] = unlike[field, value]
        return result

    @property
    def patterns(self) -> list[Sequence[str]]:
        """What the config says layer by layer, in words: `layer_types`."""
        lists = [v for _, v in sorted(self.config.to_dict().items()) if isinstance(v, list | tuple)]
        return [v for v in lists if len(v) == self.depth and all(isinstance(one, str) for one in v)]

    @property
    def turns_by_type(self) -> bool:
        """Whether rotary tables differ by type of layer: these, outside the layers, follow the widths inside."""
        return any(isinstance(value, Mapping) for value in (self.values.get("rope_parameters") or {}).values())

    def small(
        self,
        values: Mapping[str, Any],
        overrides: Mapping[int, Mapping[str, Any]],
        depth: int | None = None,
        device: str = "cpu",
    ) -> nn.Module:
        """A small model, with as many layers as show every kind."""
        depth = self.trace_depth if depth is None else depth
        # Tied weights change no graph, but a trace would show one module in two places.
        untied = {**self.at_depth(depth), **({"tie_word_embeddings": False} if self.can_untie else {})}
        given = {**self.cut(depth), **values, **untied}
        if overrides:
            given["per_layer_config"] = {str(layer): dict(own) for layer, own in overrides.items()}
        config = make_config(self.factory, given, self.name)
        return self.factory.model(config, torch.bfloat16, device)

    def cut(self, depth: int) -> dict[str, Any]:
        """The config as given, with what it lists layer by layer cut to some of them."""
        given = {
            name: value[:depth] if isinstance(value, list | tuple) and len(value) == self.depth > depth else value
            for name, value in without_layers(self.raw).items()
        }
        if given.get("rope_parameters") is None and given.get("rope_scaling") is None and self.values.get(ROPE):
            given[ROPE] = self.values[ROPE]  # a class may write sizes into the tables that it makes
        return given

    @cached_property
    def can_untie(self) -> bool:
        """Whether a config's word for untied embeddings holds: a class may tie them always, and read it for something else."""
        said = make_config(self.factory, {**without_layers(self.raw), "tie_word_embeddings": False}, self.name)
        return not getattr(said, "tie_word_embeddings", False)

    @cached_property
    def trace_depth(self) -> int:
        """Layers to make for a trace: as many as show every kind, and one feeding the next."""
        deepest: int = max(self.counts.values())
        if self.overrides or deepest <= 2:
            return deepest
        whole = layer_kinds(self.small(self.assignments[0], {}, deepest, "meta"))
        times = 2 if self.hands_on else 1
        enough = max((1 + max(places(kinds, times)) for kinds in whole.values()), default=deepest)
        enough = max(2, enough)
        few = layer_kinds(self.small(self.assignments[0], {}, enough, "meta"))
        # Patterns may be counted from the last layer.
        alike = all(few.get(path) == kinds[:enough] for path, kinds in whole.items())
        self.standing = {path: members_of(kinds) for path, kinds in whole.items()}
        return enough if alike and self.stands_at(enough) else deepest

    @cached_property
    def depth_fields(self) -> dict[str, str]:
        """For each list of layers the field that says how long it is, told by making one of them longer than the rest."""
        few = self.at_depth(2)
        if len(few) == 1:
            return {}
        plain = self.lists_of(few)
        longer = {field: self.lists_of({**few, field: few[field] + 1}) for field in few}
        return {
            path: field for field, own in longer.items() for path, length in own.items() if length != plain.get(path)
        }

    def lists_of(self, counts: Mapping[str, int]) -> dict[str, int]:
        """How long each list of layers is in a small model."""
        given = {**self.cut(max(counts.values())), **self.assignments[0], **counts}
        made = self.factory.model(make_config(self.factory, given, self.name), torch.bfloat16, "meta")
        return {path: len(layers) for path, layers in stacks_of(made).items()}

    def stands_at(self, depth: int) -> bool:
        """Whether the original can be made with fewer layers: ties by pattern may name those that are left out."""
        try:
            self.with_depth(depth)
        except Exception:  # in whatever way a class says that it cannot
            return False
        return True

    def run_time(self, probe: int) -> dict[str, int]:
        """What the sizes that a run is given are in a probe. How long a row of patches is follows from the model's own."""
        known = dict(zip(RUN_TIME, inputs_of(probe), strict=True))
        return {name: known[name] for name in self.factory.task.run_time}

    def cut_to_kinds(self, model: nn.Module) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Leave a model only the layers that a trace needs."""
        return cut_to_kinds(model, twice=self.hands_on, keep_count=self.keep_count)

    def look_again(self, *, hands_on: bool = False, assignments: tuple[dict[str, Any], ...] = ()) -> None:
        """From now on make models that show more of each kind of layer, or have other sizes."""
        self.hands_on |= hands_on
        self.assignments = assignments or self.assignments
        self.__dict__.pop("trace_depth", None)

    @cached_property
    def model_class(self) -> type:
        """The class of the whole model."""
        tiny = {**self.cut(self.trace_depth), **self.assignments[0], **self.at_depth(self.trace_depth)}
        return type(self.factory.model(make_config(self.factory, tiny, self.name), torch.bfloat16, "meta"))

    def left_open(self, field: str, assignment: Mapping[str, Any]) -> Any:
        """What the config class makes of a field that is not given."""
        given = {**self.cut(self.trace_depth), **assignment, **self.at_depth(self.trace_depth)}
        given.pop(field)
        return field_values(make_config(self.factory, given, self.name), self.factory.task)[field]

    def whole(self) -> nn.Module:
        """The model at its real sizes with all its layers, on meta. Raises `ConfigError` where none can be made."""
        return make_model(
            self.factory, make_config(self.factory, self.raw, self.name), torch.bfloat16, "meta", self.name
        )

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """What the original's checkpoint holds at the real sizes: of as many layers as are traced."""
        return {name: tuple(tensor.shape) for name, tensor in self.few_layers.state_dict().items()}

    @property
    def buffers(self) -> Mapping[str, tuple[int, ...]]:
        """What the original keeps beside that, at the real sizes."""
        return {name: tuple(tensor.shape) for name, tensor in self.few_layers.named_buffers()}

    @cached_property
    def few_layers(self) -> nn.Module:
        """The original at its real sizes, with as many layers as are traced, on meta."""
        return self.with_depth(self.trace_depth)

    def with_depth(self, depth: int) -> nn.Module:
        """The original at its real sizes, with so many layers, on meta."""
        given = {**self.cut(depth), **self.at_depth(depth)}
        if self.overrides:
            given["per_layer_config"] = {str(layer): dict(own) for layer, own in self.overrides.items()}
        return self.factory.model(make_config(self.factory, given, self.name), torch.bfloat16, "meta")


def without_layers(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what layers have for themselves."""
    return {name: value for name, value in raw.items() if name != "per_layer_config"}
