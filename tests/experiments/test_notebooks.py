"""The notebooks run, with small settings in place of the cells tagged `parameters`."""

import fnmatch
import glob
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

SMALL = {
    "quickstart.ipynb": [
        """from pathlib import Path
from experiments import mnist
from gan_jax.run import datasets

every = {"log_every": 10, "sample_every": 10, "checkpoint_every": 10, "evaluate_every": 0}
embedded = datasets.Config(source="embedded")
small = {"conditional": "projection", "num_steps": 20, "width": 8, "data": embedded}
config = mnist.Config(workdir=Path("run"), **small, **every)""",
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


@pytest.fixture
def colab(monkeypatch):
    """Runs a notebook's first cell as on Colab, on a machine with these files: its commands."""

    def install(name, files):
        commands = []
        shell = SimpleNamespace(
            system=commands.append, run_line_magic=lambda *line: commands.append(" ".join(line))
        )
        monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
        monkeypatch.setattr(glob, "glob", lambda pattern: fnmatch.filter(files, pattern))
        monkeypatch.setattr(os.path, "exists", lambda path: path in files)
        first = next(c for c in nbformat.read(NOTEBOOKS / name, 4).cells if c.cell_type == "code")
        # As IPython does: `!command` becomes a call of the shell, with {names} filled in.
        names = {"get_ipython": lambda: shell}
        exec(TransformerManager().transform_cell(first.source), names)
        return [command.format(**names) for command in commands]

    return install


MACHINES = {
    "a CPU": ([], "experiments"),
    "a GPU": (["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"], "experiments,cuda"),
    "a GPU that is not the first": (["/dev/nvidia3"], "experiments,cuda"),
    "TPU v2 to v4": (["/dev/accel0", "/dev/accel1"], "experiments,tpu"),
    "TPU v5e and later": (["/dev/vfio/0", "/dev/vfio/vfio"], "experiments,tpu"),
    "TPU v6e, another group": (["/dev/vfio/12", "/dev/vfio/vfio"], "experiments,tpu"),
    "a CPU whose kernel has vfio": (["/dev/vfio/vfio"], "experiments"),
    "a GPU handed through by vfio": (["/dev/nvidia0", "/dev/vfio/7"], "experiments,cuda"),
}
"""Machine -> its device files and the extras it needs."""


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("machine", MACHINES)
def test_on_colab_jax_is_installed_for_the_accelerator_that_is_there(name, machine, colab):
    files, extras = MACHINES[machine]
    clone, change = colab(name, files)
    assert clone.startswith("git clone --depth 1 https://")
    assert clone.endswith(f"&& pip install -q -e 'gan_jax[{extras}]'")
    assert change == "cd gan_jax"


@pytest.mark.parametrize("name", SMALL)
def test_where_the_repository_is_there_nothing_is_installed(name, colab):
    assert colab(name, ["gan_jax", "/dev/nvidia0"]) == []


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
