"""Say for each parameter of an edited model how it is made of the origin's: one recipe each, as data."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import PASSED_THROUGH, Block, Document, Node, Stack, Use, layer_environment, weight_parts
from canvas_rt.ir.expressions import parse, resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import head, key_of, live
from canvas_rt.ops.op import ParameterSpec, Shape, parameter_key
from canvas_rt.ops.parameters import may_learn
from canvas_rt.weights.axes import Dimension, Places, Resizing, Roles, is_identity, roles, symbolic_shapes, words

Fill = Literal["normal", "zeros", "ones", "mean", "identity"]
"""What entries hold that are none of the origin's; `mean`: the mean of those that are, as for new tokens."""

FILLS: Mapping[str, Fill] = {"=zeros": "zeros", "=ones": "ones", "=identity": "identity", "=initialise": "normal"}


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one of the origin's tensors."""

    key: str
    rows: tuple[int, int] | None = None
    """The first, and one past the last; None: all."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one parameter is made."""

    key: str
    shape: Shape
    parts: tuple[Part, ...] = ()
    """What it is made of, joined along the first dimension; nothing where it is new."""

    axes: tuple[tuple[int, Places], ...] = ()
    """For each dimension that is another, which entries of the old one its entries take."""

    fill: Fill = "normal"
    """What entries hold that take none."""

    quiet: tuple[int, ...] = ()
    """Dimensions that are summed over: what is new there is zero, so that it changes nothing."""

    std: float = 0.02
    """How wide `normal` is."""

    how: str = "copy"
    """In a word: copy, slice, repeat, mean over groups, extend, concatenate, zeros, ones, identity or initialise."""

    why: str = ""
    """Why it is new, where one would have expected the origin's."""

    @property
    def carried(self) -> bool:
        return bool(self.parts)

    @property
    def count(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class WeightPlan:
    """How all parameters of a model are made."""

    recipes: tuple[Recipe, ...]
    """In the model's order; what is tied to another has none."""

    held: Mapping[str, Shape]
    """The origin's tensors."""

    @cached_property
    def dropped(self) -> tuple[str, ...]:
        """The origin's tensors that no parameter takes."""
        taken = {part.key for recipe in self.recipes for part in recipe.parts}
        return tuple(key for key in self.held if key not in taken)

    @property
    def tally(self) -> Mapping[str, int]:
        """How many parameters are made in each way."""
        return Counter(recipe.how for recipe in self.recipes)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node stands: in the model, and in the origin."""

    node: Node
    key: str
    origin: tuple[str, ...]
    """Keys of the origin, with ranges of rows; none where it is new."""

    own: str
    """`=zeros` and the like, where somebody said so."""

    told: bool
    """Whether somebody said where its weights come from."""

    environment: Mapping[str, Any]
    silent: bool
    """Whether it must give zeros: it ends a branch of a layer that is new."""


def weight_plan(document: Document, held: Mapping[str, Shape], before: Mapping[str, Any] | None = None) -> WeightPlan:
    """How each parameter is made of the origin's tensors, `held` by the keys that the origin's model has.

    `before`: the origin's sizes, if not those that the document was imported with. Layers that are new pass on what they
    are given: what ends a branch of theirs is zero, all else as the config says. What an edit resized is carried where
    the factors of its dimensions tell which entries are which. Raises `CanvasError` for weights that were asked for and
    cannot be: keys that the origin lacks, an identity that is not square.
    """
    return _Planner(document, held, origin_environment(document) if before is None else before).plan()


def origin_environment(document: Document) -> Mapping[str, Any]:
    """What names stood for when the document was imported."""
    origin = document.origin
    return document.replace(sizes=FrozenMap(origin.sizes), config=FrozenMap(origin.config)).environment


class _Planner:
    def __init__(self, document: Document, held: Mapping[str, Shape], before: Mapping[str, Any]) -> None:
        self.document = document
        self.held = held
        self.before = before
        self.roles: Roles = roles(document)
        self.std = float(document.config.get("initializer_range") or 0.02)
        self.claimed: set[str] = set()
        """Tensors that something takes that was told to."""

    def plan(self) -> WeightPlan:
        places = list(self.places())
        self.claimed = {key.partition("[")[0] for place in places if place.told for key in place.origin}
        tied = self.document.tied
        recipes: dict[str, Recipe] = {}
        for place in places:
            resizing = Resizing(self.before, place.environment, self.roles)
            for spec, dimensions in symbolic_shapes(place.node, place.environment):
                key = parameter_key(place.key, spec.name)
                if key not in recipes and key not in tied:
                    recipes[key] = self.recipe(place, spec, dimensions, resizing)
        return WeightPlan(tuple(recipes.values()), self.held)

    # where everything stands

    def places(self) -> Iterator[_Place]:
        yield from self._inside(self.document.root, "", ("",), "", self.document.environment, frozenset(), False)

    def _inside(
        self,
        name: str,
        key: str,
        origin: tuple[str, ...],
        own: str,
        environment: Mapping[str, Any],
        ends: frozenset[str],
        told: bool,
    ) -> Iterator[_Place]:
        block = self.document.blocks[name]
        needed = live(block)
        for item in block.nodes:
            if item.id not in needed or not may_learn(item):
                continue
            where = f"{key}{key_of(item)}"
            said, said_own = self._origin_of(item, origin), own or (item.weights if item.weights[:1] == "=" else "")
            known = told or item.weights not in ("", PASSED_THROUGH)
            if isinstance(item, Node):
                yield _Place(item, where, said, said_own, known, environment, item.id in ends)
            elif isinstance(item, Use):
                inner = frozenset(end.partition(".")[2] for end in ends if end.partition(".")[0] == item.id)
                prefix = tuple(f"{part}." if part else "" for part in said[:1])
                yield from self._inside(item.block, f"{where}.", prefix, said_own, environment, inner, known)
            else:
                yield from self._layers(item, where, said, said_own, environment, known)

    def _layers(
        self, stack: Stack, key: str, origin: tuple[str, ...], own: str, environment: Mapping[str, Any], told: bool
    ) -> Iterator[_Place]:
        for layer, kind in enumerate(stack.kind_indices(resolve(stack.repeat, environment))):
            inner = layer_environment(environment, stack.kinds[kind], layer)
            source, block = stack.source_of(layer), stack.kinds[kind].block
            if source is not None and origin and not self._holds(f"{origin[0]}.{source}"):
                source = None  # the stack was made deeper
            prefix = () if source is None else tuple(f"{part}.{source}." for part in origin[:1])
            ends = branch_ends(self.document, block) if source is None else frozenset()
            yield from self._inside(block, f"{key}.{layer}.", prefix, own, inner, ends, told)

    def _holds(self, place: str) -> bool:
        """Whether the origin has weights at a place."""
        return place in self._places_held

    @cached_property
    def _places_held(self) -> frozenset[str]:
        return frozenset(
            key[:index] for key in self.held for index, character in enumerate(f"{key}.") if character == "."
        )

    @staticmethod
    def _origin_of(item: Node | Use | Stack, within: tuple[str, ...]) -> tuple[str, ...]:
        """The keys of the origin that an item is, given those of what it stands in."""
        if not within or item.weights[:1] == "=":
            return ()
        if item.weights == PASSED_THROUGH:
            return (within[0].removesuffix("."),)
        return tuple(f"{within[0]}{part}" for part in weight_parts(item.weights or key_of(item)))

    # what becomes of each

    def recipe(
        self, place: _Place, spec: ParameterSpec, dimensions: tuple[Dimension, ...], resizing: Resizing
    ) -> Recipe:
        key = parameter_key(place.key, spec.name)
        if place.own:
            return self._as_said(key, place.own, spec)
        parts = tuple(self._part(place, name, spec) for name in place.origin)
        lacking = [part.key for part in parts if part.key not in self.held]
        if lacking:
            self._require_all(place)
        if not parts or lacking:
            return self._new(key, place, spec, f"the origin has no {lacking[0]}" if lacking and place.told else "")
        if not place.told and any(part.key.rpartition(".")[0] in self.claimed for part in parts):
            return self._new(key, place, spec, f"{parts[0].key} is taken by what was renamed")
        return self._made(key, place, spec, dimensions, parts, resizing)

    def _require_all(self, place: _Place) -> None:
        """Refuse to join what the origin has with what it has not. Where it has nothing of it, a node is new."""
        roots = [name.partition("[")[0] for name in place.origin]
        missing = [root for root in roots if not self._holds(root)]
        if missing and len(missing) < len(roots):
            told = f"takes its weights from {missing[0]} too, which the origin does not have"
            raise CanvasError(told, path=place.key, hint="Set its weights to other keys, or to =initialise.")

    def _part(self, place: _Place, name: str, spec: ParameterSpec) -> Part:
        root, _, rows = name.partition("[")
        key = parameter_key(root, spec.name)
        if key not in self.held and self.document.ties.get(key) in self.held:
            key = self.document.ties[key]  # which the origin shares, and the model has for itself
        if not rows:
            return Part(key)
        names = {**place.environment, **self.before}
        first, last = (int(parse(bound).evaluate(names)) for bound in rows.rstrip("]").split(":"))
        count = self.held[key][0] if key in self.held else 0
        if key in self.held and not 0 <= first < last <= count:
            raise CanvasError(f"takes rows {first} to {last} of {key}, which has {count}", path=place.key)
        return Part(key, (first, last))

    def _as_said(self, key: str, own: str, spec: ParameterSpec) -> Recipe:
        fill = FILLS[own]
        if fill == "normal":
            return self._initialised(key, spec)
        if fill == "identity" and len(spec.shape) == 1:
            fill = "zeros" if spec.name == "bias" else spec.init if spec.init != "normal" else "ones"
        if fill == "identity" and (len(spec.shape) != 2 or spec.shape[0] != spec.shape[1]):
            raise CanvasError(
                f"cannot be an identity: it is {list(spec.shape)}",
                path=key,
                hint="Give it as many outputs as inputs, or =zeros.",
            )
        return Recipe(key, spec.shape, fill=fill, how=fill)

    def _initialised(self, key: str, spec: ParameterSpec, why: str = "") -> Recipe:
        how = "initialise" if spec.init == "normal" else spec.init
        return Recipe(key, spec.shape, fill=spec.init, std=self.std, how=how, why=why)

    def _new(self, key: str, place: _Place, spec: ParameterSpec, why: str = "") -> Recipe:
        if place.silent and (place.node.op != "experts" or spec.name.startswith("down_proj")):
            return Recipe(
                key, spec.shape, fill="zeros", how="zeros", why="the layer is new, and passes on what it gets"
            )
        return self._initialised(key, spec, why)

    def _made(
        self,
        key: str,
        place: _Place,
        spec: ParameterSpec,
        dimensions: tuple[Dimension, ...],
        parts: tuple[Part, ...],
        resizing: Resizing,
    ) -> Recipe:
        held = self._joined_shape(parts)
        if held is None or len(held) != len(spec.shape):
            shapes = ", ".join(str(list(self.held[part.key])) for part in parts)
            return self._new(key, place, spec, f"{parts[0].key} is {shapes}, which cannot become {list(spec.shape)}")
        axes: list[tuple[int, Places]] = []
        guessed = 0
        for axis, (dimension, old, new) in enumerate(zip(dimensions, held, spec.shape, strict=True)):
            found = resizing.of(dimension, old, new, told=place.told)
            guessed += old != new and not resizing.knows(dimension, old)
            if found is None or (guessed > 1 and not place.told):
                return self._new(
                    key, place, spec, f"{parts[0].key} is {list(held)}: nothing says what belongs together"
                )
            if not is_identity(found, old):
                axes.append((axis, found))
        how = self._how(parts, held, axes)
        tokens = bool(axes) and axes[0][0] == 0 and self._counts_tokens(dimensions[0])
        fill: Fill = "mean" if tokens and (axes[0][1] < 0).any() else spec.init
        return Recipe(key, spec.shape, parts, tuple(axes), fill, summed_over(place.node, spec), self.std, how)

    def _joined_shape(self, parts: Sequence[Part]) -> Shape | None:
        """The shape of parts that are joined, where they can be."""
        shapes = [self.held[part.key] for part in parts]
        if len(parts) == 1 and parts[0].rows is None:
            return shapes[0]
        if any(shape[1:] != shapes[0][1:] or not shape for shape in shapes):
            return None
        rows = [
            shape[0] if part.rows is None else part.rows[1] - part.rows[0]
            for part, shape in zip(parts, shapes, strict=True)
        ]
        return (sum(rows), *shapes[0][1:])

    def _how(self, parts: Sequence[Part], held: Shape, axes: Sequence[tuple[int, Places]]) -> str:
        if len(parts) > 1:
            return "concatenate"
        said = [words(places, held[axis]) for axis, places in axes] + ["slice" for part in parts if part.rows]
        order = ("mean over groups", "repeat", "extend", "slice")
        return next((how for how in order if how in said), "copy")

    def _counts_tokens(self, dimension: Dimension) -> bool:
        return isinstance(dimension, str) and bool(parse(dimension).names & self.roles.vocabulary)


def summed_over(node: Node, spec: ParameterSpec) -> tuple[int, ...]:
    """The dimension of a parameter over which its op sums."""
    if len(spec.shape) < 2:
        return ()
    transposed = bool(node.attrs.get("transposed", False))
    if node.op == "linear":
        return (0,) if transposed else (1,)
    if node.op == "experts" and not spec.name.endswith("_bias"):
        return (1,) if transposed else (2,)
    return (1,) if node.op == "router" else ()


THROUGH = ("rms_norm", "scale", "merge_heads", "dropout", "torch.view", "torch.reshape")
"""Ops that give zeros for zeros."""


def branch_ends(document: Document, name: str) -> frozenset[str]:
    """Nodes of a layer's block that end its branches, by path: were they zero, the layer would pass on what it gets.

    A branch is what is added to the stream. Nothing where a layer has another form.
    """
    return _passing(document, name, frozenset(document.blocks[name].inputs[:1])) or frozenset()


def _passing(document: Document, name: str, given: frozenset[str]) -> frozenset[str] | None:
    """The same for any block, whose inputs `given` are the stream; None where it gives something else."""
    block = document.blocks[name]
    stream = set(given)
    ends: set[str] = set()
    for item in block.nodes:
        if isinstance(item, Use):
            fed = frozenset(port for port, ref in item.inputs.items() if head(ref) in stream)
            within = _passing(document, item.block, fed) if fed else None
            found = None if within is None else frozenset(f"{item.id}.{end}" for end in within)
        elif isinstance(item, Node) and item.op == "add":
            branches = [ref for ref in _fed(item) if ref not in stream]
            found = _ends(document, block, branches[0]) if len(branches) == 1 else None
        else:
            found = None
        if found is not None:
            stream.add(item.id)
            ends |= found
    carried = head(next(iter(block.outputs.values()), ""))
    return frozenset(ends) if carried in stream - {*block.inputs} else None


def _fed(item: Node) -> tuple[str, ...]:
    return tuple(head(ref) for ref in item.inputs.values())


def _ends(document: Document, block: Block, ref: str) -> frozenset[str] | None:
    """Nodes that make a value zero, were they zero themselves; None where none is known."""
    item = block.node(ref)
    if isinstance(item, Use):
        inner = document.blocks[item.block]
        found = _ends(document, inner, head(next(iter(inner.outputs.values()), "")))
        return None if found is None else frozenset(f"{item.id}.{end}" for end in found)
    if not isinstance(item, Node):
        return None
    if item.op in ("linear", "experts"):
        return frozenset({item.id})
    below = [_ends(document, block, other) for other in _fed(item)]
    known = [ends for ends in below if ends is not None]
    if item.op == "mul":  # zero, if either is
        return known[-1] if known else None
    if item.op == "add" or (item.op in THROUGH and len(below) == 1):
        return frozenset().union(*known) if known and len(known) == len(below) else None
    return None
