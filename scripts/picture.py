"""Take the README's picture of the editor: `python scripts/picture.py` writes docs/editor.png. Needs Chromium and Pillow."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from editor import Server, Tab  # noqa: E402

LAYERS = "model.layers.0-15"


def main() -> None:
    server = Server()
    server.start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--disable-gpu", "--no-sandbox"]
            )
            context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light")
            tab = Tab(context, server.url).open()
            tab.look(LAYERS)
            tab.card(f"{LAYERS}.self_attn").click(position={"x": 30, "y": 30})
            tab.settled()
            tab.page.wait_for_timeout(800)
            shot = Image.open(io.BytesIO(tab.page.screenshot()))
            browser.close()
    finally:
        server.kill()
    shot.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(ROOT / "docs" / "editor.png", optimize=True)


if __name__ == "__main__":
    main()
