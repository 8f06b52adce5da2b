"""One expert-parallel rank's share of a document: some of the experts; rows of tokens travel to them and back.

Experts are taken to be chosen evenly, so that each rank receives as many rows as it sends.
"""

from canvas_rt.errors import CanvasError
from canvas_rt.ir.document import Document, Node
from canvas_rt.ir.expressions import resolve
from canvas_rt.ir.graph import walk
from canvas_rt.ops.catalogue import complete
from canvas_rt.ops.routing import routes
from canvas_rt.physics.roofline import Roof
from canvas_rt.physics.setup import Setup
from canvas_rt.physics.traffic import Traffic, ring


def local(document: Document, ranks: int) -> Document:
    """What one rank holds. Raises `CanvasError` for a model without experts, or with a number that does not divide."""
    found = [visit for visit in walk(document) if isinstance(visit.item, Node) and visit.item.op == "experts"]
    if not found:
        raise CanvasError("this model has no experts to share", path="expert", hint="Leave expert 1.")
    for visit in found:
        assert isinstance(visit.item, Node)
        held = resolve(complete(visit.item), visit.environment)["num_experts"]
        if held % ranks:
            fitting = [str(n) for n in range(1, held + 1) if held % n == 0]
            message = f"num_experts ({held}) do not divide over {ranks} expert parallel ranks"
            raise CanvasError(message, path=visit.path, hint=f"Try expert {' or '.join(fitting)}.")
    for name, block in document.blocks.items():
        nodes = tuple(_fewer(node, ranks) for node in block.nodes)
        if nodes != block.nodes:
            document = document.with_block(name, block.replace(nodes=nodes))
    return document


def _fewer(node: object, ranks: int) -> object:
    if not isinstance(node, Node) or node.op != "experts":
        return node
    count = complete(node)["num_experts"]
    text = count[1:] if isinstance(count, str) else str(count)
    return node.replace(attrs=node.attrs.with_items({"num_experts": f"=({text}) // {ranks}"}))


def travelling(document: Document, setup: Setup, limit: Roof, ranks: int) -> Traffic:
    """Rows that one rank sends for one batch of the whole `document`: to the experts and back, forward and backward."""
    traffic = Traffic()
    times = {visit.path: visit.times for visit in walk(document)}
    passes = (2 if setup.recompute == ("full",) else 1) + 1 if setup.train else 1
    for route in routes(document):
        chosen = route.choice.chosen if route.choice is not None else 1
        rows = setup.batch * setup.new_tokens * chosen * times[route.experts]
        nbytes = rows * route.widths[0] * setup.product_dtype.itemsize
        traffic.send("all_to_all", 2 * passes * ring("all_to_all", nbytes, ranks))
    traffic.wait(traffic.cost.sent / limit.card.link_bandwidth)
    return traffic


__all__ = ["local", "travelling"]
