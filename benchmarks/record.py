"""Write what a benchmark found: figures as JSON, tables made from the same figures as Markdown, and on what machine."""

import json
import os
import platform
import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What a reader needs to compare figures with those of another machine."""
    from importlib.metadata import version

    import canvas_rt

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "architecture": platform.machine(),
        "load_at_start": round(os.getloadavg()[0], 1),
        "yardstick_ms": yardstick_ms(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
        "canvas_rt": canvas_rt.__version__,  # which need not be installed: a checkout will do
    }


def yardstick_ms() -> float:
    """CPU time of a million additions in plain Python: how fast this machine was while the benchmark ran."""

    def once() -> float:
        start, total = time.process_time(), 0
        for number in range(1_000_000):
            total += number
        return time.process_time() - start

    return round(sorted(once() for _ in range(7))[3] * 1e3, 1)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; its first column is text, the others numbers or short words."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def save(
    name: str,
    title: str,
    figures: dict[str, Any],
    parts: Sequence[str],
    *,
    program: str | None = None,
    folder: Path = RESULTS,
) -> None:
    """Write `NAME.json` and `NAME.md` into a folder. `parts` are the paragraphs and tables under the title; `program` is
    the benchmark's name where its results are called otherwise."""
    about = figures["machine"]
    ran = (
        f"Made by `python -m benchmarks.{program or name}` on {about['date']}: {about['cores']} cores ({about['architecture']}, "
        f"{about['memory_gb']} GB), load {about['load_at_start']} at the start, Python {about['python']}, "
        f"torch {about['torch']}, transformers {about['transformers']}, Canvas {about['canvas_rt']}. "
        f"A million additions in plain Python took {about['yardstick_ms']} ms here."
    )
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([f"# {title}", ran, *parts]) + "\n"
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / f"{name}.json").write_text(numbers_on_one_line(json.dumps(figures, indent=1)) + "\n", encoding="utf-8")
    print(text)


def numbers_on_one_line(text: str) -> str:
    return re.sub(r"\[\s+([-\d.e,\s]+?)\s+\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
