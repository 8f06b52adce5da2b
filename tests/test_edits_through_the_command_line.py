"""What the command line makes of edits is what `apply` makes of them."""

import json
from pathlib import Path

import pytest
from edit_kinds import EDITS

from canvas_rt import Document, apply, load, save
from canvas_rt.cli import main
from canvas_rt.edits import dump


@pytest.mark.parametrize("name", EDITS)
def test_edits_as_data_give_the_same_document_and_emit(name: str, small_llama: Document, tmp_path: Path) -> None:
    save(small_llama, tmp_path / "mine.canvas.json")
    (tmp_path / "edits.json").write_text(json.dumps([dump(edit) for edit in EDITS[name]]))
    edited = tmp_path / "edited.canvas.json"
    assert (
        main(["edit", str(tmp_path / "mine.canvas.json"), "--apply", str(tmp_path / "edits.json"), "-o", str(edited)])
        == 0
    )
    assert load(edited) == apply(small_llama, *EDITS[name])
    assert main(["check", str(edited)]) == 0
    assert main(["emit", str(edited), "-o", str(tmp_path / "out")]) == 0
    assert load(tmp_path / "out" / "document.canvas.json") == load(edited)
