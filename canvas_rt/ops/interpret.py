"""Run a document node by node in PyTorch: the meaning of a graph, against which emitted code is held."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document, Node, Stack, Use, layer_environment
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import checkpoint_path, handed_on, running_order
from canvas_rt.ops.catalogue import OPS, parameter_shapes
from canvas_rt.ops.dispatch import kernel
from canvas_rt.ops.kernels import Context
from canvas_rt.ops.op import parameter_key

Parameters = Callable[[str, tuple[int, ...]], Tensor]
"""Gives the learned tensor of a key and shape."""

Values = Mapping[str, Tensor]


class Interpreter:
    """Runs a document's blocks. What a node gives is kept while something still reads it, and no longer."""

    def __init__(self, document: Document, parameters: Parameters, context: Context) -> None:
        self.document = document
        self.parameters = parameters
        self.context = context
        self.tied = document.tied
        self.places: dict[str, str] = {}

    def run(self, inputs: Values) -> Values:
        """The root's outputs for its inputs."""
        return self.block(self.document.root, self.document.environment, inputs, "")

    def block(self, name: str, environment: Mapping[str, Any], inputs: Values, prefix: str) -> Values:
        """One block's outputs. `prefix` is the path of the block, with a dot at its end."""
        block = self.document.blocks[name]
        order, cycle = running_order(block)
        if cycle:
            raise CanvasError("stands in a cycle", path=prefix + cycle[0])
        values = dict(inputs)
        uses: dict[str, int] = {}
        # A value may be read as `q` and as `q.out`: both keep it.
        single = {item.id for item in order if len(self.ports(item)) == 1}
        for ref in (*(ref for item in order for ref in item.inputs.values()), *block.outputs.values()):
            uses[_value(ref, single)] = uses.get(_value(ref, single), 0) + 1
        for item in order:
            arguments = {port: values[_full(ref, values)] for port, ref in item.inputs.items()}
            for ref in item.inputs.values():
                uses[_value(ref, single)] -= 1
                if not uses[_value(ref, single)]:
                    values.pop(_full(ref, values), None)
            results = self.item(item, environment, arguments, prefix)
            del arguments
            # No variable may hold a result beyond its last use: memory is traced by this very run.
            values.update(_named(item.id, results))
            del results
        return {name: values[_full(ref, values)] for name, ref in block.outputs.items()}

    def ports(self, item: Node | Use | Stack) -> tuple[str, ...]:
        """The names of an item's outputs."""
        if isinstance(item, Node):
            return _outputs(item)
        return tuple(self.document.blocks[item.block].outputs) if isinstance(item, Use) else ("out",)

    def item(self, item: Node | Use | Stack, environment: Mapping[str, Any], inputs: Values, prefix: str) -> Values:
        """One item's outputs by port."""
        path = prefix + item.id
        if isinstance(item, Use):
            return self.block(item.block, environment, inputs, f"{path}.")
        if isinstance(item, Stack):
            return {"out": self.stack(item, environment, inputs, path)}
        return self.node(item, environment, inputs, path)

    def node(self, node: Node, environment: Mapping[str, Any], inputs: Values, path: str) -> Values:
        attrs = self.context.settings(node, environment)
        learned = {
            spec.name: self.parameter(parameter_key(self.place(path), spec.name), spec.shape)
            for spec in parameter_shapes(node, attrs)
        }
        results = kernel(node.op)(inputs, attrs, learned, self.context)
        return dict(zip(_outputs(node), results, strict=True))

    def place(self, path: str) -> str:
        """Where the checkpoint keeps what a node at a path learns."""
        if path not in self.places:
            self.places[path] = checkpoint_path(self.document, path)
        return self.places[path]

    def parameter(self, key: str, shape: tuple[int, ...]) -> Tensor:
        return self.parameters(self.tied.get(key, key), shape)

    def stack(self, stack: Stack, environment: Mapping[str, Any], inputs: Values, path: str) -> Tensor:
        """What the last layer gives."""
        count = resolve(stack.repeat, environment)
        carry_port = self.document.blocks[stack.kinds[0].block].inputs[0]
        carried, given = inputs[carry_port], dict(inputs)
        handed = handed_on(stack, self.document.blocks)
        for layer, index in enumerate(stack.kind_indices(count)):
            kind = stack.kinds[index]
            scope = layer_environment(environment, kind, layer)
            ports = self.document.blocks[kind.block].inputs
            known = {port: value for port, value in {**given, carry_port: carried}.items() if port in ports}
            outputs = self.layer(kind.block, scope, known, f"{path}.{layer}.")
            carried = next(iter(outputs.values()))
            given |= {name: outputs[name] for name in handed if name in outputs}
        return carried

    def layer(self, block: str, environment: Mapping[str, Any], inputs: Values, prefix: str) -> Values:
        """One layer of a stack."""
        return self.block(block, environment, inputs, prefix)


def _named(id: str, results: Values) -> Values:
    """An item's results, as references name them."""
    if len(results) == 1:
        return {id: next(iter(results.values()))}
    return {f"{id}.{port}": value for port, value in results.items()}


def _full(ref: str, values: Mapping[str, Any]) -> str:
    """A reference to a one-output node may name its port or leave it out."""
    return ref if ref in values else ref.partition(".")[0]


def _value(ref: str, single: set[str]) -> str:
    """What a reference names, however it is written."""
    name = ref.partition(".")[0]
    return name if name in single else ref


def _outputs(node: Node) -> tuple[str, ...]:
    return OPS[node.op].outputs


def random_parameters(seed: int, std: float = 0.05, dtype: torch.dtype = torch.float32) -> Parameters:
    """Fresh weights, each drawn by its own key: the same key and seed give the same numbers, whatever the order."""
    made: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def parameter(key: str, shape: tuple[int, ...]) -> Tensor:
        if (key, shape) not in made:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(key.encode()))
            noise = torch.randn(shape, generator=generator) * std
            made[key, shape] = (noise + 1.0 if len(shape) == 1 and key.endswith("weight") else noise).to(dtype)
        return made[key, shape]

    return parameter
