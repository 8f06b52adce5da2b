"""Functions that change nothing, and those that stay the functions that they are."""

import torch
from torch import fx

from canvas_rt.importer.calls import bind, source_of, takes_all
from canvas_rt.importer.recognition.reader import Reader
from canvas_rt.ops.catalogue import OPS

aten = torch.ops.aten

TRANSPARENT = {
    aten.alias.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.detach.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
}
"""Functions that change no value in eval mode."""

RESHAPED = (
    aten.slice.Tensor,
    aten.view.default,
    aten.reshape.default,
    aten.view_as.default,
    aten.reshape_as.default,
    aten.expand.default,
    aten.expand_as.default,
)
"""Functions that change nothing where the shape stays as it is."""


def passes_on(reader: Reader, node: fx.Node) -> bool:
    """Functions that change no value. What is laid out anew for attention has gradients that are rounded in another order,
    and what is copied beside other uses has its gradients added last."""
    if node.target is aten.clone.default and len(source_of(node).users) > 1 and source_of(node).op != "placeholder":
        return False
    attends = any(user.target is torch.ops.canvas_rt.attention.default for user in node.users)
    if node.target is aten.contiguous.default and attends and not source_of(node).meta["val"].is_contiguous():
        return False
    if node.target in TRANSPARENT or takes_all(node):
        reader.refs[node] = reader.ref(source_of(node))
        return True
    return False


def takes_one_of_several(reader: Reader, node: fx.Node) -> bool:
    """One of the values that a module or a function gives."""
    reader.read_node(source_of(node))  # binds all that it gives
    return node in reader.refs


def is_plain(reader: Reader, node: fx.Node) -> bool:
    """Whatever no rule knows stays the function that it is."""
    bound = bind(node)
    if bound is None:
        return False
    op, ports, attrs = bound
    if op == "torch.view" and laid_out_anew(source_of(node)):
        op = "torch.reshape"  # `contiguous` is passed over: without it no view can be had
    inputs = {port: reader.ref(source) for port, source in ports.items()}
    name = reader.add(node, op.split(".")[1], op, inputs, attrs)
    outputs = OPS[op].outputs
    if len(outputs) > 1:
        reader.bind_values(node, name, outputs)
    return True


def laid_out_anew(node: fx.Node) -> bool:
    """Whether a value is another's numbers in the order of its dimensions, which that one has them not in."""
    return node.target is aten.contiguous.default and not source_of(node).meta["val"].is_contiguous()
