"""The folders of canvas_rt form a ladder: a module imports only from rungs below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lowest first. Folders on one rung are siblings and do not import one another.
LADDER = [
    {"errors", "diagnostics", "scratch"},
    {"ir"},
    {"ops"},
    {"importer", "edits", "physics"},
    {"diffing", "text", "gestures", "reporting", "solving", "options", "terminal"},
    {"session", "pictures"},
    {"codegen"},
    {"weights"},
    {"verifier"},
    {"sources"},
    {"dryrun"},
    {"training"},
    {""},
    {"commands"},
    {"cli"},
]
RUNG = {name: height for height, names in enumerate(LADDER) for name in names}

# Third-party packages with a home: nowhere else in canvas_rt may they be imported, even inside a function.
HOMES = {
    "torch": {"ops", "importer", "physics", "codegen", "weights", "verifier", "dryrun", "training"},
    "transformers": {"ops", "importer", "weights", "verifier", "dryrun", "training"},
    "gradio": set(),
    "plotly": set(),
    "canvas_ui": {"commands"},
}


def imports(path: Path) -> set[str]:
    """Every dotted name `path` imports: at the top, inside a function, or for types alone."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the whole module name, not a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


MODULES = sorted(p for p in (ROOT / "canvas_rt").rglob("*.py") if p != ROOT / "canvas_rt" / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_below(path: Path) -> None:
    layer = path.relative_to(ROOT / "canvas_rt").parts[0].removesuffix(".py")
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "canvas_rt":
            target = rest[0] if rest and rest[0] in RUNG else ""
            assert target == layer or RUNG[target] < RUNG[layer], (
                f"{layer} may not import {target or 'canvas_rt'}: it is not below it"
            )
        assert top not in {"ui", "model_zoo"}, f"{layer} may not import {top}"
        assert layer in HOMES.get(top, {layer}), f"{top} belongs to {sorted(HOMES[top])}, not {layer}"


def test_every_module_says_in_its_first_line_what_it_is_for() -> None:
    for path in MODULES:
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring and docstring.splitlines()[0].endswith((".", "…")), path


def test_opening_a_zoo_model_imports_no_torch() -> None:
    program = (
        "import sys, canvas_rt; document = canvas_rt.open_zoo('llama-3.1-405b'); canvas_rt.apply; "
        "from canvas_rt.ops.parameters import count_parameters; print(count_parameters(document).total); "
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "405853388800"
