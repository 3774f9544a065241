"""docs/tutorial.ipynb goes from a messy folder to predictions, with two pictures."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"


def test_the_notebook_is_kept_without_outputs():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's own libraries
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    kinds = [kind for out in outputs for kind in out.get("data", {})]
    printed = "".join(out["text"] for out in outputs if out["output_type"] == "stream")
    assert kinds.count("image/png") == 2
    assert "1 images cannot be read:" in printed and "IMG 000.png: damaged" in printed
    assert "36 test images" in printed and "36 images, " in printed
    assert "array([" in outputs[-1]["data"]["text/plain"]  # the scores of scikit-learn
