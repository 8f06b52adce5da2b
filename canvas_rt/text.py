"""A document as text: what `show` prints, and tests read."""

from collections.abc import Iterator, Mapping
from typing import Any

from canvas_rt.ir.document import Document, Node, Stack, Use
from canvas_rt.ir.expressions import display, resolve
from canvas_rt.ir.graph import Visit, execution_order, reachable_blocks, walk
from canvas_rt.ops.catalogue import OPS, complete, shown

Shapes = Mapping[str, Any]
"""For each path, the shapes of its outputs, as `check` gives them."""


def folded(document: Document, shapes: Shapes) -> str:
    """The whole model with its stacks closed: one line an item, in the order of execution."""
    rows = [(name, "", "", shape_text(shapes.get(name))) for name in document.blocks[document.root].inputs]
    rows += [
        row(visit, shapes)
        for visit in walk(document)
        if not isinstance(visit.item, Use) and not in_layers(document, visit)
    ]
    return "\n".join([*layout(rows), *variants(document)])


def in_layers(document: Document, visit: Visit) -> bool:
    """Whether an item stands inside a stack's layer."""
    return any(part[0].isdecimal() for part in visit.path.split("."))


def unfolded(document: Document) -> str:
    """Every block with its nodes, as a document holds them."""
    lines: list[str] = []
    for name in reversed(reachable_blocks(document)):
        block = document.blocks[name]
        lines += [
            "",
            f"{name}({', '.join(block.inputs)})" + (f"  # {block.role.replace('_', ' ')}" if block.role else ""),
        ]
        ordered, cycle = execution_order(block)
        stuck = [item for item in block.nodes if item.id in cycle]
        for item in (*ordered, *stuck):
            inputs = ", ".join(port if port == ref else f"{port}={ref}" for port, ref in item.inputs.items())
            lines.append(f"  {item.id} = {title(item)}({inputs})  {detail(item)}".rstrip())
        lines.append("  return " + ", ".join(block.outputs.values()))
    return "\n".join(lines).lstrip("\n")


def row(visit: Visit, shapes: Shapes) -> tuple[str, str, str, str]:
    return (
        visit.path,
        title(visit.item),
        detail(visit.item, visit.environment),
        shape_text(shapes.get(visit.path), visit.item),
    )


def layout(rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for path, name, what, shape in rows:
        arrow = f"→ {shape}" if name and shape else shape
        yield f"  {path:{widths[0]}}  {name:{widths[1]}}  {what:{widths[2]}}  {arrow}".rstrip()


def title(item: Node | Use | Stack) -> str:
    if isinstance(item, Stack):
        return "Stack"
    return item.block if isinstance(item, Use) else OPS[item.op].title if item.op in OPS else item.op


def detail(item: Node | Use | Stack, environment: Mapping[str, Any] | None = None) -> str:
    """What matters of an item, in the model's own sizes."""
    if isinstance(item, Stack):
        return f"{display(item.repeat)} × {item.kinds[0].block}"
    if isinstance(item, Use) or item.op not in OPS:
        return ""
    attrs = shown(item)
    match item.op:
        case "linear":
            bias = " + bias" if resolved(item, "bias", environment) is True else ""
            return f"{attrs['in_features']} → {attrs['out_features']}{bias}"
        case "embedding":
            return f"{attrs['num_embeddings']} × {attrs['embedding_dim']}"
        case "rms_norm" | "layer_norm" | "gated_rms_norm":
            return attrs["size"] if complete(item)["size"] is not None else ""
        case "rotary_embedding":
            parameters = resolved(item, "parameters", environment)
            if not isinstance(parameters, Mapping):
                return f"{attrs['head_dim']}, {attrs['parameters']}"
            kind = parameters.get("rope_type", "default")
            return attrs["head_dim"] + (f", {kind} scaling" if kind != "default" else "")
        case "split_heads":
            return f"{attrs['heads']} × {attrs['head_dim']}"
        case "attention":
            window = resolved(item, "window", environment)
            return f"scale {attrs['scale']}" + (f", window {attrs['window']}" if window is not None else "")
        case "router":
            return f"top {attrs['top_k']} of {attrs['num_experts']}, {resolved(item, 'scoring', environment)}"
        case "experts":
            width = f"{attrs['size']} → {attrs['intermediate_size']}"
            return f"{attrs['num_experts']} × {width}, {resolved(item, 'fn', environment)}"
        case "activation":
            return str(resolved(item, "fn", environment))
    settings = OPS[item.op].settings
    told = [name for name, value in complete(item).items() if name not in settings or value != settings[name].default]
    return ", ".join(f"{name} {attrs[name]}" for name in told)


def resolved(item: Node, name: str, environment: Mapping[str, Any] | None) -> Any:
    value = complete(item)[name]
    return display(value) if environment is None else resolve(value, environment)


def shape_text(shapes: Any, item: Node | Use | Stack | None = None) -> str:
    known = [shape for shape in shapes or () if shape is not None]
    if not known:
        return ""
    ports = OPS[item.op].outputs if isinstance(item, Node) and item.op in OPS else ("out",)
    names = f"{', '.join(ports)} " if len(ports) > 1 else ""
    return names + " ".join(dict.fromkeys(map(str, known)))


def variants(document: Document) -> Iterator[str]:
    """Layers that are not like the others."""
    for visit in walk(document):
        if isinstance(visit.item, Stack):
            for run in visit.item.runs:
                kind = visit.item.kinds[run.kind]
                layers = f"{run.start}" if run.stop == run.start + 1 else f"{run.start}-{run.stop - 1}"
                sizes = ", ".join(f"{name} = {display(value)}" for name, value in kind.sizes.items())
                block = kind.block if kind.block != visit.item.kinds[0].block else ""
                yield f"    {visit.path}.{layers}: " + "; ".join(filter(None, (block, sizes)))


def heading(document: Document, parameters: int) -> str:
    """The model in a line."""
    sizes = ", ".join(f"{name} {value}" for name, value in document.environment.items() if name in document.sizes)
    return f"{document.root} · {parameters:,} parameters · {sizes}"
