"""What is generated from something else is not stale."""

from pathlib import Path

from canvas_ui import bundle, typescript
from canvas_ui.host import STATIC, page


def test_the_browsers_types_are_those_of_the_messages() -> None:
    assert typescript.TARGET.read_text(encoding="utf-8") == typescript.generate(), "run `make types`"


def test_the_committed_bundle_was_built_from_these_sources() -> None:
    assert bundle.STAMP.read_text(encoding="utf-8").strip() == bundle.fingerprint(), "run `make web`"


def test_the_bundle_is_small() -> None:
    import gzip

    assert len(gzip.compress((STATIC / "canvas.js").read_bytes(), 9)) <= 200_000


def test_the_bundle_asks_no_other_host() -> None:
    text = (STATIC / "canvas.js").read_text(encoding="utf-8") + (STATIC / "canvas.css").read_text(encoding="utf-8")
    for word in ("fonts.googleapis", "cdn.", "unpkg", "jsdelivr"):
        assert word not in text, word


def test_a_page_under_another_root_asks_below_it() -> None:
    assert '"/app/canvas/exchange"' in page("/app/")
    assert "<script>" not in page('"><script>alert(1)</script>')


def test_types_follow_the_schema(tmp_path: Path) -> None:
    text = typescript.generate()
    assert "export type Envelope = {" in text and "export type Document = {" in text
    assert 'type: "insert";' in text
