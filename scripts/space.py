"""Put together the folder that deploys to Hugging Face Spaces: `python scripts/space.py` writes build/space/."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = {"space": "", "canvas_rt": "canvas_rt", "ui/canvas_ui": "canvas_ui", "model_zoo": "canvas_rt/model_zoo"}
"""What goes where. In a wheel the packages lie alike."""

FOR_DEVELOPERS = {
    "canvas_ui/bundle.py",
    "canvas_ui/static/inputs.sha256",
    "canvas_ui/typescript.py",
    "canvas_rt/importer/zoo_build.py",
}
"""What only building Canvas needs."""


def files() -> Iterator[tuple[str, Path]]:
    """Every file of the Space: its name there, and where it is here."""
    for source, target in PARTS.items():
        for path in sorted((ROOT / source).rglob("*")):
            name = "/".join(filter(None, (target, path.relative_to(ROOT / source).as_posix())))
            hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(ROOT).parts)
            if path.is_file() and not hidden and name not in FOR_DEVELOPERS:
                yield name, path


def assemble(folder: Path) -> list[str]:
    """Write the folder anew, and give the names of its files. The same sources give the same bytes."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "app.py").exists():
        raise SystemExit(f"{folder} holds something else: choose another folder")
    shutil.rmtree(folder, ignore_errors=True)
    names = []
    for name, path in files():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        names.append(name)
    return names


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "space"
    print(f"{where}: {len(assemble(where))} files")
