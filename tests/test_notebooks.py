"""The notebooks run, with small settings in place of the cells tagged `parameters`."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

SMALL = {
    "quickstart.ipynb": [
        """from pathlib import Path
from experiments import mnist
from gan_jax import data

every = {"log_every": 10, "sample_every": 10, "checkpoint_every": 10}
embedded = data.Config(source="embedded")
config = mnist.Config(workdir=Path("run"), num_steps=20, width=8, data=embedded, **every)""",
        "ring_steps = 20",
    ],
    "theory.ipynb": [
        """from experiments import optimal_discriminator

short = {"num_steps": 40, "batch_size": 64, "num_samples": 1000}
config = optimal_discriminator.Config(workdir=Path("d"), **short)""",
        """from experiments import gaussian_1d

short = {"num_updates": 40, "frames": 2, "seeds": 1, "batch_size": 32, "width": 4}
config = gaussian_1d.Config(workdir=Path("g"), **short)""",
        """from experiments import vanishing_gradient

short = {"epochs": (1,), "num_steps": 20, "width": 16, "num_minibatches": 2}
config = vanishing_gradient.Config(workdir=Path("v"), **short)""",
        """from experiments import synchronisation

short = {"num_cycles": 20, "freeze_after": 10, "frozen_steps": 20, "seeds": 2, "width": 8}
config = synchronisation.Config(workdir=Path("s"), **short)""",
    ],
}
"""Notebook -> what its parameter cells become, in order."""


def test_every_notebook_is_here():
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == SMALL.keys()


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("quickstart.ipynb", None),
        # Without the experiments, which have tests of their own and take minutes to compile.
        ("theory.ipynb", ".main(config)"),
        pytest.param("theory.ipynb", None, marks=pytest.mark.slow),
    ],
)
# Jupyter's own libraries warn of one another.
@pytest.mark.filterwarnings("default")
def test_notebook_runs(name, left_out, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # they compile much, compute little
    monkeypatch.delenv("MPLBACKEND", raising=False)  # Jupyter's own shows pictures
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    for cell, source in zip(tagged, SMALL[name], strict=True):
        cell.source = source
    if left_out:
        kept = [cell for cell in notebook.cells if left_out not in cell.source]
        assert len(kept) < len(notebook.cells)
        notebook.cells = kept
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if any(kind.startswith("image/") for kind in output.get("data", {}))
    ]
    assert len(pictures) >= 4
