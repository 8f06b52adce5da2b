"""Say from which sources the committed bundle was built: `python -m canvas_ui.bundle` writes the hash of its inputs."""

import hashlib
from pathlib import Path

from canvas_ui.host import STATIC

WEB = Path(__file__).parents[1] / "web"
STAMP = STATIC / "inputs.sha256"


def inputs() -> list[Path]:
    """All that the bundle is made from."""
    named = ("package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")
    return sorted([*(WEB / name for name in named), *(path for path in (WEB / "src").rglob("*") if path.is_file())])


def fingerprint() -> str:
    digest = hashlib.sha256()
    for path in inputs():
        digest.update(f"{path.relative_to(WEB).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


if __name__ == "__main__":
    STAMP.write_text(fingerprint() + "\n", encoding="utf-8")
