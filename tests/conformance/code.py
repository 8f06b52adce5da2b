"""Checks of the emitted text."""

import ast
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from canvas_rt.codegen.package import LINE
from conformance.checks import check, folder, own, slow
from conformance.subjects import Subject


@own
@check
def every_file_is_well_formed(subject: Subject) -> None:
    """model.py compiles and JSON files parse."""
    for path in subject.folder.iterdir():
        if path.suffix == ".py":
            compile(path.read_text(), str(path), "exec")
        elif path.suffix == ".json":
            json.loads(path.read_text())


RULES = "E,F,W,I,B,C4,SIM,UP,PIE,RET,RUF,N,PL,PT,RSE,ISC,ICN,TID,PERF,FURB,FLY,A,ARG,ANN"
EXCEPTIONS = "ANN401,N801,PLR0913,PLR0917,RUF012,RET504,PLR2004,PLR0912,PLR0915,ARG001,ARG002,ARG004"
"""Names like Qwen3_5 are those of transformers; so are many arguments, class attributes, and arguments that nothing reads."""


@own
@check
def code_is_clean(subject: Subject) -> None:
    """ruff has nothing to say, by a strict set of rules, and every function is annotated."""
    assert style_errors(subject.folder) == ""


def style_errors(where: Path) -> str:
    """What ruff says of all modules in a folder."""
    from ruff.__main__ import find_ruff_bin

    rules = ["--select", RULES, "--ignore", EXCEPTIONS, "--line-length", str(LINE), "--target-version", "py310"]
    command = [find_ruff_bin(), "check", "--isolated", "--no-cache", "--output-format", "concise", *rules, "."]
    told = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    return told.stdout + told.stderr if told.returncode else ""


@own
@check
def code_says_what_servers_look_for(subject: Subject) -> None:
    """The text names the interface of attention, as vLLM's search of the source expects; one class prefix serves all."""
    text = (subject.folder / "model.py").read_text()
    attends = any(
        hasattr(module, "is_causal") and "canvas" in type(module).__module__ + type(module).__name__.lower()
        for module in subject.loaded.modules()
    )
    assert not attends or ("ALL_ATTENTION_FUNCTIONS.get_interface(" in text and "def eager_attention_forward(" in text)
    classes = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert all(name.startswith("Canvas") for name in classes)


@own
@slow
@check
def code_is_typed(subject: Subject) -> None:
    """mypy finds nothing wrong."""
    with folder() as where:
        shutil.copy(subject.folder / "model.py", where / "model.py")
        assert typing_errors(where) == ""


MYPY = """
[mypy]
ignore_missing_imports = true
check_untyped_defs = true
strict_optional = false
[mypy-transformers.*]
follow_imports = skip
"""
"""Fields of a config that follow from others are None until it is made; transformers' own annotations are not ours."""


def typing_errors(where: Path) -> str:
    """What mypy says of all modules in a folder."""
    (where / "mypy.ini").write_text(MYPY)
    kept = Path(tempfile.gettempdir()) / "canvas-mypy"
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--no-error-summary", f"--cache-dir={kept}"]
    files = sorted(path.name for path in where.glob("*.py"))
    told = subprocess.run([*command, *files], cwd=where, capture_output=True, text=True, check=False)
    return told.stdout + told.stderr if told.returncode else ""
