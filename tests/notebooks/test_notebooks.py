"""The notebooks run from top to bottom in fresh kernels, without a word on stderr, and say what they promise."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

ENVIRONMENT = {
    "PLOTLY_RENDERER": "plotly_mimetype",  # figures as data: no plotly.js, and no host that would be asked for it
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "ui"))),
    "OMP_NUM_THREADS": "1",  # tests beside this one have the other cores
    # Where there are widgets, tqdm draws its bars with them; here it would write them to stderr, and miss the widgets.
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:IProgress",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Any]]:
    """Execute a notebook in a folder of its own."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ |= ENVIRONMENT

    def executed(path: Path) -> Any:
        notebook = nbformat.read(path, as_version=4)
        folder = str(tmp_path_factory.mktemp(path.stem))
        NotebookClient(notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
        return notebook

    yield executed
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", ())


def printed(notebook: Any) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def shown(notebook: Any, mime: str) -> list[Any]:
    return [output.data[mime] for output in outputs(notebook) if mime in output.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's libraries at one another
def test_a_notebook_runs_without_a_word_on_stderr(path: Path, run: Callable[[Path], Any]) -> None:
    notebook = run(path)
    assert [o.text for o in outputs(notebook) if o.output_type == "stream" and o.name == "stderr"] == []
    PROMISES[path.stem](notebook)


def opens(notebook: Any) -> None:
    text, pictures = printed(notebook), shown(notebook, "image/svg+xml")
    assert len(pictures) == 2 and "num_hidden_layers = 16 ×" in pictures[0]
    assert "[batch, seq, hidden_size]" in pictures[1] and "[batch, seq, hidden_size]" not in pictures[0]
    assert re.search(r"in all +1,235,814,400", text)
    assert "Document('qwen3', Qwen3ForCausalLM" in text


def costs(notebook: Any) -> None:
    text, figures = printed(notebook), shown(notebook, "application/vnd.plotly.v1+json")
    assert "8,030,261,248 → 7,090,704,384 parameters" in text
    assert "num_attention_heads (32) is not a multiple of num_key_value_heads (5)" in text
    assert re.search(r"rtx-4090 .* does not fit", text) and re.search(r"b200 .* fits", text)
    titles = [figure["layout"]["title"]["text"] for figure in figures]
    assert len(titles) == 3 and titles[2].startswith("Roofline of NVIDIA H100")


def generates(notebook: Any) -> None:
    text = printed(notebook)
    assert text.count(" passed ") == 5 and "gpu" in text
    losses = [float(loss) for loss in re.findall(r"loss (\d\.\d+)", text)]
    assert losses[0] > 3 > 0.5 > losses[-1]
    assert "The quick brown fox" in text


def trains(notebook: Any) -> None:
    text, figures = printed(notebook), shown(notebook, "application/vnd.plotly.v1+json")
    assert re.search(r"peak allocated .* exact", text)
    assert len(figures) == 2
    entropy = float(re.search(r"unigram entropy (\d\.\d+) nats", text)[1])  # type: ignore[index]
    first, last = map(float, re.search(r"loss (\S+) → (\S+) in 60 steps", text).groups())  # type: ignore[union-attr]
    assert first > 7 > entropy > last
    assert "The value of" in text


PROMISES = {
    "1_open_and_inspect": opens,
    "2_edit_check_cost": costs,
    "3_emit_verify_generate": generates,
    "4_dry_run_and_train": trains,
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not cell.outputs and cell.execution_count is None and not cell.metadata for cell in code)
    assert str(ROOT) not in path.read_text(encoding="utf-8")
