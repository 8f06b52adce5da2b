"""Run one block on meta under a tape, with all that a scenario changes; a stack inside it is a gap."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from canvas_rt.ir.document import Node, Stack, Use
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.frozen import FrozenMap
from canvas_rt.ir.graph import first_path, head, own_names
from canvas_rt.ir.halves import NEITHER, Sides
from canvas_rt.ops.catalogue import OPS, complete
from canvas_rt.ops.interpret import Interpreter, Values
from canvas_rt.ops.kernels import needs_mask
from canvas_rt.ops.learned import MODULE
from canvas_rt.ops.modules import states_kept
from canvas_rt.physics import linears
from canvas_rt.physics.anatomy import looks_back, windows_within
from canvas_rt.physics.autocast import Autocast
from canvas_rt.physics.cache import cache_bytes
from canvas_rt.physics.keys import Blocks, Environment, relevant, stand_in
from canvas_rt.physics.regimes import PLAIN, Regime
from canvas_rt.physics.setup import META, Setup, arriving
from canvas_rt.physics.tape import Event, Tape
from canvas_rt.physics.trace import GAP, Gap, Learned, Trace


class _Gap(Function):
    """A stack's layers, as their surroundings see them: a new value forward, new gradients backward."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tracer: "Tracer", index: int, carried: Tensor, *others: Tensor) -> Tensor:
        ctx.tracer, ctx.index = tracer, index
        like = [arriving(value) for value in (carried, *others)]
        ctx.like = like
        with tracer.tape.unseen():
            return like[0].make()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        tape = ctx.tracer.tape
        number = tape.forget(gradient)
        tape.events.append((ctx.index, GAP))
        ctx.tracer.masks.clear()
        ctx.tracer.positions.clear()
        with tape.unseen():
            gradients = [like.make() if like.requires_grad else None for like in ctx.like]
        numbers = [-1 if g is None else tape.adopt(g) for g in gradients]
        ctx.tracer.gap_gradients[ctx.index] = (number, numbers[0], tuple(numbers[1:]))
        return (None, None, None, *gradients)


_VARIABLES = {"embedding", "position_ids", "rotary_embedding"}
"""Ops whose results have a name in transformers' code, as in ours, and so live until the function returns."""

_PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_mm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.canvas_rt.grouped_mm.default,
}
"""What selective recomputation keeps: the dear ones, as torchtitan's operator policy does."""


def _keep_products(ctx: Any, func: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if func in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE


WHOLE_LAYERS = (("full",), ("selective",))
"""Recomputation of layers as a whole."""


class _Exchange(Function):
    """Rows go to other cards, and as many come: experts are chosen evenly."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return torch.empty_like(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.empty_like(gradient)


class _Gathered(Function):
    """Keys or values of all parts of a sequence [batch, heads, seq, width], of which this card makes one."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: int) -> Tensor:
        ctx.tokens = part.shape[2]
        return part.new_empty(*part.shape[:2], part.shape[2] * ranks, part.shape[3])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.new_empty(*gradient.shape[:2], ctx.tokens, gradient.shape[3]), None


class Tracer(Interpreter):
    """Interprets on meta under a tape; does not run the layers of stacks."""

    def __init__(
        self,
        blocks: Blocks,
        root: str,
        environment: Environment,
        setup: Setup,
        ties: Mapping[str, str],
        regime: Regime = PLAIN,
        layers_learn: Callable[[str], bool] = lambda path: True,
    ) -> None:
        super().__init__(stand_in(blocks, root, environment, ties), self.learned, setup.context())
        self.tape = Tape(granule=setup.granule)
        self.tape.flex = setup.attention == "flex"
        self.setup = setup
        self.regime = regime
        self.layers_learn = layers_learn
        """Whether anything in the stack at a path is trained."""
        self.autocast = Autocast() if setup.dtype == "mixed" else None
        self.context.mask = self.mask
        self.context.scores = lambda scores: self.frame.append(scores)
        self.context.exchange = _Exchange.apply if setup.expert_ranks > 1 else None
        self.weights: dict[str, Tensor] = {}
        self.frame: list[Tensor] = []
        """What the function at hand holds until it returns."""
        self.masks: dict[tuple[int, int, int | None], Tensor] = {}
        """Those that the model made before its first layer."""
        self.positions: list[Tensor] = []
        """Positions, which transformers' layers are given too."""
        self.kept: list[Tensor] = []
        """What the cache holds from now on."""
        self.hands_on = False
        """Whether the layer hands values to later ones."""
        self.grown: dict[int, Tensor] = {}
        """For new keys and values, by identity, what there is with those before them: that is what layers hand on."""
        self.cached: list[Event] = []
        """What the cache held before, as allocations."""
        self.gaps: list[Gap] = []
        self.gap_gradients: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        self.gradient = self.passed = -1
        self.passed_others: tuple[int, ...] = ()
        self.handed_gradients: tuple[int, ...] = ()
        self.returned: tuple[int, ...] = ()
        """The gradients of what arrived with one."""
        self.head = ""
        """The projection onto the vocabulary, which needs only the last token when a prompt is read."""
        self.sides: Sides = NEITHER
        """What of the block follows from what an encoder reads alone."""
        self.where = root
        """The block at hand."""
        self.tail: dict[str, Callable[[Tensor], Tensor]] = {}
        """The head and what comes after it, where the loss runs them on parts of the tokens."""

    # -- weights

    def place(self, path: str) -> str:
        if path not in self.places:  # no checkpoint is read: tensors are told apart by their nodes
            self.places[path] = first_path(self.document, path)
        return self.places[path]

    def learned(self, key: str, shape: tuple[int, ...]) -> Tensor:
        path = key.rpartition(".")[0]
        return self.weight(key, shape, self.setup.weight_dtype, trained=path not in self.regime.frozen, path=path)

    def weight(self, key: str, shape: tuple[int, ...], dtype: torch.dtype, *, trained: bool, path: str = "") -> Tensor:
        """The learned tensor of a key: it lives throughout, and so does its gradient where gradients accumulate."""
        if key not in self.weights:
            trained = trained and self.setup.train
            if path in self.regime.quantised and self.setup.eight and len(shape) == 2:
                dtype = linears.FP8
            with self.tape.unseen():
                weight = torch.empty(shape, dtype=dtype, device=META, requires_grad=trained)
                if trained and self.setup.accumulating:
                    weight.grad = torch.empty_like(weight)
                    self.tape.resident(weight.grad)
            self.tape.resident(weight)
            if path in self.regime.quantised:
                self.tape.stored(weight, sum(linears.stored_sizes(shape, self.regime.storage, weight.element_size())))
            self.weights[key] = weight
        return self.weights[key]

    def multiply(self, path: str, attrs: Mapping[str, Any]) -> linears.Multiply | None:
        """How the linear at a path multiplies; None for plainly."""
        run: linears.Multiply | None = None
        if path in self.regime.quantised:
            run = self._few_bits()
        elif self.setup.dtype == "fp8" and path != self.head:
            run = linears.float8
        if path not in self.regime.adapted:
            return run
        shape = attrs["out_features"], attrs["in_features"]
        pair = (
            self.weight(f"{path}.{name}", small, torch.float32, trained=True)
            for name, small in linears.adapter_shapes(shape, self.regime.rank)
        )
        return linears.Adapter(run or F.linear, *pair)

    def _few_bits(self) -> linears.Multiply | None:
        if self.setup.train:
            return linears.dequantised
        return linears.served_in_eight if self.setup.eight else None  # engines dequantise as they multiply

    # -- nodes

    def block(self, name: str, environment: Mapping[str, Any], inputs: Mapping[str, Tensor], prefix: str) -> Values:
        """A block's outputs. As in a Python function, what it is given, and its positions, live until it returns."""
        frame = list(inputs.values())
        outer, self.frame = self.frame, frame
        around, self.where = self.where, name
        try:
            return super().block(name, environment, inputs, prefix)
        finally:
            self.frame, self.where = outer, around
            frame.clear()

    def item(
        self, item: Node | Use | Stack, environment: Mapping[str, Any], inputs: Mapping[str, Tensor], prefix: str
    ) -> Mapping[str, Tensor]:
        if self.setup.remembers and self.sides.encoded(self.where, item.id) and not self.tape.paused:
            return self._remembered(partial(super().item, item, environment, inputs, prefix))
        if not self._recomputed(item):
            results = super().item(item, environment, inputs, prefix)
            if isinstance(item, Use) and len(results) > 1:
                self.frame += results.values()  # each has a name in code
            return results
        return self.again(partial(super().item, item, environment, prefix=prefix), inputs)

    def _remembered(self, run: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """What an encoder's input has given before: it is there, and nothing is computed for it."""
        with self.tape.unseen():
            results = run()
        for value in results.values():
            self.tape.resident(value)
        return results

    def _recomputed(self, item: Node | Use | Stack) -> bool:
        names = self.setup.recompute
        if not names or names in WHOLE_LAYERS or isinstance(item, Stack):
            return False
        return item.id in names or (item.op if isinstance(item, Node) else item.block) in names

    def again(
        self, run: Callable[..., Mapping[str, Tensor]], inputs: Mapping[str, Tensor], *, selective: bool = False
    ) -> Mapping[str, Tensor]:
        """Run now, and again in the backward. `run` takes `inputs` by that name."""
        names, values = list(inputs), list(inputs.values())
        if isinstance(inputs, dict):
            inputs.clear()
        ports: list[str] = []

        def forward(*values: Tensor) -> tuple[Tensor, ...]:
            with self.cast(), self.recomputing():
                made = dict(run(inputs=dict(zip(names, values, strict=True))))
            ports[:] = made
            return tuple(made.values())

        settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "determinism_check": "none"}
        if selective:
            settings["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
        results = checkpoint(forward, *values, **settings)
        return dict(zip(ports, results, strict=True))

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        before = self.tape.again
        self.tape.again = self.tape.backward
        try:
            yield
        finally:
            self.tape.again = before

    def cast(self) -> AbstractContextManager[Any]:
        """What a forward runs under: nothing, or autocast. In a recomputation it forgets its casts at the end."""
        if self.autocast is None:
            return nullcontext()
        return _forgetting() if self.tape.backward else self.autocast

    def cast_again(self) -> AbstractContextManager[Any]:
        """What a recomputation runs under, where the first computation is under `cast` already."""
        return self.cast() if self.tape.backward else nullcontext()

    def node(
        self, node: Node, environment: Mapping[str, Any], inputs: Mapping[str, Tensor], path: str
    ) -> Mapping[str, Tensor]:
        if path in self.tail:
            return self._postponed(node, environment, inputs, path)
        self.tape.owner = path
        if node.op == "attention":
            inputs = self._attending(node, environment, inputs)
        elif node.op == "linear":
            self.context.linear = self.multiply(path, resolve(complete(node), environment))
        if path == self.head and self.setup.mode == "prefill" and self.setup.task.generates:
            inputs = {"x": inputs["x"][:, -1:]}
        results = super().node(node, environment, inputs, path)
        if node.op == MODULE and self.setup.cached:
            self._keep_states(resolve(complete(node), environment), inputs["x"])
        if node.op == "attention":
            self.frame += (*inputs.values(), *results.values())
        if node.op in _VARIABLES:
            self.frame += results.values()
            self.positions += results.values() if node.op == "position_ids" else ()
        if self.setup.train and not self.tape.again:
            self.tape.finished(path, tuple(results.values()))
        return results

    def _postponed(
        self, node: Node, environment: Mapping[str, Any], inputs: Mapping[str, Tensor], path: str
    ) -> Mapping[str, Tensor]:
        """The loss runs this node; until then, what it is given goes past it."""
        (port,) = inputs
        run = super().node

        def later(value: Tensor) -> Tensor:
            self.tape.owner = path
            if node.op == "linear":
                self.context.linear = self.multiply(path, resolve(complete(node), environment))
            results = run(node, environment, {port: value}, path)
            if not self.tape.again:
                self.tape.finished(path, tuple(results.values()))
            return next(iter(results.values()))

        self.tail[path] = later
        return {OPS[node.op].outputs[0]: inputs[port]}

    def _attending(
        self, node: Node, environment: Mapping[str, Any], inputs: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """What attention is given, with the cache, and the kernel for it."""
        attrs = complete(node)
        self.tape.window = window = resolve(attrs["window"], environment)
        self.tape.causal = attrs["causal"]
        values = dict(inputs)
        inputs.clear()  # type: ignore[attr-defined]
        if self.setup.remembers and self.sides.encoded(self.where, head(node.inputs["k"])):
            values["k"], values["v"] = self._of_source(values["k"]), self._of_source(values["v"])
        elif self.setup.cached and attrs["cached"] and not self.sides.encoded(self.where, node.id):
            new = values["k"], values["v"]
            values["k"], values["v"] = self.cache(*new)
            if self.hands_on:
                self.grown |= {id(new[0]): values["k"], id(new[1]): values["v"]}
            del new
        self.context.backend = self.setup.backend(values["q"], values["k"], values["v"], window)
        if self.autocast is not None and self.context.backend != "eager":
            values = {port: self.autocast.narrow(value) for port, value in values.items()}
        if self.setup.context_ranks > 1:
            for port in ("k", "v"):
                values[port] = _Gathered.apply(values[port], self.setup.context_ranks)  # type: ignore[no-untyped-call]
        return values

    # -- masks

    def mask(self, q: Tensor, k: Tensor, window: int | None) -> Tensor:
        """The mask that the model made before its first layer."""
        key = q.shape[2], k.shape[2], window
        if key not in self.masks:
            with self.tape.unseen():
                mask = self.make_mask(*key)
            self.tape.resident(mask)
            self.masks[key] = mask
        return self.masks[key]

    def make_mask(self, queries: int, keys: int, window: int | None) -> Tensor:
        """As transformers' `sdpa_mask` and `eager_mask` make it: booleans, which eager attention turns into numbers."""
        query = torch.arange(queries, device=META)[:, None]
        key = torch.arange(keys, device=META)[None, :]
        if window is None:
            visible = (key <= query)[None, None]
        else:
            visible = ((key > query - window) & (key <= query))[None, None]
        if self.setup.attention != "eager":
            return visible
        visible = visible.expand(self.setup.batch, 1, -1, -1)
        least = torch.finfo(self.setup.weight_dtype).min
        zero = torch.zeros((), dtype=self.setup.weight_dtype, device=META)
        return torch.where(visible, zero, least)

    def _masks_before(self, stack: Stack, environment: Mapping[str, Any], tokens: int) -> None:
        """Make the masks that layers will ask for, and whatever flex attention keeps instead."""
        mode = self.setup.attention
        windows = windows_within(self.document.blocks, stack, environment)
        causal = looks_back(self.document.blocks, stack)
        if mode == "flash" or self.masks:
            return
        for window in windows:
            keys = self._past(window) + tokens
            if mode == "flex":
                tiles = -(-tokens // 128)
                self.masks[tokens, tokens, window] = torch.empty(
                    4 * tiles + 4 * tiles**2, dtype=torch.int32, device=META
                )
            elif (mode == "eager" and causal) or needs_mask(tokens, keys, window):
                self.masks[tokens, keys, window] = self.make_mask(tokens, keys, window)

    # -- the cache

    def _past(self, window: int | None) -> int:
        past = self.context.past
        return past if window is None else min(past, window - 1)

    def cache(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with those of the cache before them. What stays in the cache outlives the trace."""
        window = self.tape.window
        if self.setup.page:
            return self._paged(k, window), self._paged(v, window)
        if self.setup.cache != "same":
            return self._requantise(k, window), self._requantise(v, window)
        # Of a window, transformers lets go of the old keys only when the values have grown too.
        old: list[Tensor] = []
        grown = tuple(self._grow(new, window, old) for new in (k, v))
        return grown[0], grown[1]

    def _of_source(self, made: Tensor) -> Tensor:
        """Keys or values of what an encoder gave: they were made with the first token, and are read where they lie."""
        with self.tape.unseen():
            whole = torch.empty_like(made, memory_format=torch.contiguous_format)
            plain = self.setup.cache == "same" and not self.setup.page
            kept = whole if plain else self._few(made, made.shape[2])
        self._held(kept)
        self.kept.append(kept)
        if not plain:
            self.tape.resident(whole)
            self.tape.stored(whole, cache_bytes(whole.numel(), self.setup.cache, made.element_size()))
        return whole

    def _grow(self, new: Tensor, window: int | None, before: list[Tensor]) -> Tensor:
        past = self._past(window)
        if not past:
            whole = torch.cat([new], dim=-2)
        else:
            # What transformers' cache keeps of a window is a view: the token that has left it still takes its place.
            slots = past if window is None else min(self.context.past, window)
            with self.tape.unseen():
                old = torch.empty(*new.shape[:2], slots, new.shape[3], dtype=new.dtype, device=META)
            # From the step before: it dies here, and the new one takes its place.
            self._held(old)
            whole = torch.cat([old[:, :, -past:], new], dim=-2)
            before += [old] if window is not None else []
        self.kept.append(whole)
        return whole

    def _keep_states(self, attrs: Mapping[str, Any], x: Tensor) -> None:
        """What a module keeps of all tokens before: of one size, made by the first of them and then written in place."""
        for shape, dtype in states_kept(attrs, x.shape[0], x.shape[-1], x.dtype):
            if self.context.past:
                with self.tape.unseen():
                    state = torch.empty(shape, dtype=dtype, device=META)
                self._held(state)
            else:
                state = torch.empty(shape, dtype=dtype, device=META)
            self.kept.append(state)

    def _requantise(self, new: Tensor, window: int | None) -> Tensor:
        """A cache of fewer bits: made wide to be read, with the new tokens at its end, and stored anew."""
        past, whole = self._past(window), new
        if past:
            with self.tape.unseen():
                old = self._few(new, past)
            self._held(old)
            wide = torch.empty(*new.shape[:2], past, new.shape[3], dtype=new.dtype, device=META)
            wide.copy_(old[:1].view(1, 1, 1, 1).expand_as(wide))
            whole = torch.cat([wide, new], dim=-2)
        tokens = whole.shape[-2] if window is None else min(window, whole.shape[-2])
        self.kept.append(self._few(new, tokens))
        return whole

    def _few(self, like: Tensor, tokens: int) -> Tensor:
        """Storage for keys or values of so many tokens."""
        count = like.shape[0] * like.shape[1] * tokens * like.shape[3]
        return torch.empty(cache_bytes(count, self.setup.cache, like.element_size()), dtype=torch.uint8, device=META)

    def _held(self, old: Tensor) -> None:
        """What the cache held before this run."""
        self.cached.append((self.tape.rounded(old.untyped_storage().nbytes()), self.tape.adopt(old)))

    def _paged(self, new: Tensor, window: int | None) -> Tensor:
        """Pages that stand ready: new tokens are written to them, and the kernel reads them where they lie."""
        page = self.setup.page
        tokens = self._past(window) + new.shape[2]
        slots = -(-(tokens if window is None else min(tokens, window)) // page) * page
        with self.tape.unseen():
            pool = self._few(new, slots)
            whole = torch.empty(*new.shape[:2], tokens, new.shape[3], dtype=new.dtype, device=META)
        self._held(pool)
        self.kept.append(pool)
        self.tape.resident(whole)
        self.tape.stored(whole, cache_bytes(whole.numel(), self.setup.cache, new.element_size()))
        with self.tape.unseen():
            slot = torch.empty_like(new)
        self.tape.resident(slot)
        slot.copy_(new)
        return whole

    # -- stacks

    def stack(self, stack: Stack, environment: Mapping[str, Any], inputs: Mapping[str, Tensor], path: str) -> Tensor:
        index = len(self.gaps)
        values = dict(inputs)
        inputs.clear()  # type: ignore[attr-defined]
        ports = self.document.blocks[stack.kinds[0].block].inputs
        carried = values.pop(ports[0])
        if self.tape.paused:  # it has run before
            return torch.empty_like(carried)
        others = FrozenMap({port: arriving(value) for port, value in sorted(values.items())})
        tape = self.tape
        tape.owner = path
        self._masks_before(stack, environment, carried.shape[1] if carried.dim() > 1 else 1)
        given = tape.number(carried)
        given_others = tuple(tape.number(values[port]) for port in others)
        carry = arriving(carried)
        if self.setup.train:
            with tape.unseen():
                anchor = torch.empty((), device=META, requires_grad=self.layers_learn(path))
            result = _Gap.apply(anchor, self, index, carried, *(values[port] for port in others))  # type: ignore[no-untyped-call]
        else:
            with tape.unseen():
                result = carry.make()
        del carried
        tape.events.append((index, GAP))
        values.clear()
        if not (self.setup.train and self.setup.recompute in WHOLE_LAYERS):
            self.masks.clear()
            self.positions.clear()  # checkpoints hold them until the last layer has run again
        names = frozenset().union(
            *(relevant(self.document.blocks, kind.block, environment).keys() for kind in stack.kinds)
        )
        scope = {name: environment[name] for name in names | own_names(stack) if name in environment}
        self.gaps.append(Gap(path, stack, FrozenMap(scope), carry, others, given, given_others, tape.adopt(result)))
        return result  # type: ignore[no-any-return]

    # -- what came of it

    def end_forward(self) -> None:
        """The whole model's forward is done."""
        if self.autocast is not None:
            self.autocast.drop()

    def gradients(self) -> tuple[Learned, ...]:
        """The gradients that the backward has left."""
        if self.setup.accumulating:
            return ()
        return tuple(
            Learned(key, self.tape.number(weight.grad), self.tape.rounded(weight.grad.nbytes))
            for key, weight in self.weights.items()
            if weight.grad is not None
        )

    def trace(self, splits: tuple[int, int], learned: tuple[Learned, ...] = (), **shared: Any) -> Trace:
        events = self.tape.events
        gaps = []
        for index, gap in enumerate(self.gaps):
            gradient, passed, others_passed = self.gap_gradients.get(index, (-1, -1, ()))
            gaps.append(replace(gap, gradient=gradient, passed=passed, passed_others=others_passed))
        return Trace(
            forward=tuple(events[: splits[0]]),
            between=tuple(events[splits[0] : splits[1]]),
            backward=tuple(events[splits[1] :]),
            work=tuple(self.tape.work),
            gaps=tuple(gaps),
            makers=tuple(self.tape.makers),
            forms=tuple(self.tape.forms),
            cached=tuple(self.cached),
            learned=learned,
            gradient=self.gradient,
            passed=self.passed,
            passed_others=self.passed_others,
            **shared,
        )


@contextmanager
def _forgetting() -> Iterator[None]:
    autocast = Autocast()
    with autocast:
        yield
    autocast.drop()
