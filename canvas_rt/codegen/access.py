"""Where the embeddings are, for what transformers does with them."""

import re

from canvas_rt.codegen.blocks import BlockWriter
from canvas_rt.codegen.plan import Plan
from canvas_rt.codegen.syntax import statements, unparse
from canvas_rt.ir.document import Node, Use
from canvas_rt.ir.graph import key_of


def embedding_access(plan: Plan, block: str) -> str:
    """Where the embedding of tokens is, for what transformers does with it; nothing where it looks by itself."""
    path = embedding_path(plan, block)
    if path in ("", "embed_tokens"):
        return ""
    return unparse(
        statements(
            f"def get_input_embeddings(self) -> nn.Embedding:\n    return self.{path}\n\n"
            f"def set_input_embeddings(self, value: nn.Embedding) -> None:\n    self.{path} = value"
        )
    )


def output_access(plan: Plan) -> str:
    """Where the embedding of what is said is; nothing where transformers looks by itself."""
    tied = [key.removesuffix(".weight") for key in plan.document.ties if key.endswith(".weight")]
    root = [item for item in plan.items(plan.document.root) if isinstance(item, Node) and item.op == "linear"]
    path = next(iter(tied or [key_of(item) for item in root]), "lm_head")
    if (
        path == "lm_head"
        or len(tied) > 1
        or not plan.task.of_tokens
        or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", path)
    ):
        return ""
    return unparse(
        statements(
            f"def get_output_embeddings(self) -> nn.Module:\n    return self.{path}\n\n"
            f"def set_output_embeddings(self, value: nn.Linear) -> None:\n    self.{path} = value"
        )
    )


def embedding_path(plan: Plan, block: str) -> str:
    """The path of the embedding that reads the tokens, from a block down; nothing where there is none."""
    inner = plan.document.blocks[block]
    for item in inner.nodes:
        if "input_ids" not in item.inputs.values():
            continue
        if isinstance(item, Node) and item.op == "embedding":
            return _path_of(plan, block, item)
        if isinstance(item, Use):
            port = next(port for port, ref in item.inputs.items() if ref == "input_ids")
            deeper = embedding_path(plan, item.block) if port == "input_ids" else ""
            if deeper:
                return f"{_path_of(plan, block, item)}.{deeper}"
    return ""


def _path_of(plan: Plan, block: str, item: Node | Use) -> str:
    """What is written behind `self.` for a module of a block."""
    return unparse(BlockWriter(plan, block).held[key_of(item)]).removeprefix("self.")
