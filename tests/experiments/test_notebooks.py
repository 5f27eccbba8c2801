"""The notebooks run, with small settings in place of the cells tagged `parameters`."""

import builtins
import fnmatch
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import flax
import jax
import jaxlib
import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import optax
import pytest
from nbclient import NotebookClient
from small_runs import digest
from test_killed import environment, wait_for

from gan_jax.run.commands import train

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"

SMALL = {
    "quickstart.ipynb": [
        """from experiments import mnist
from gan_jax.run import datasets

every = {"log_every": 10, "sample_every": 10, "checkpoint_every": 10, "evaluate_every": 0}
data = datasets.Config(source="embedded", held_out=200)
small = {"conditional": "projection", "num_steps": 20, "model": "mlp", "width": 8, "data": data}
config = mnist.Config(workdir=runs / "quickstart", **small, **every)""",
        """from experiments import evaluate

scores = evaluate.Config(run=config.workdir, num=100, metrics=("frechet",), cache=False)""",
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


def code_cells(name):
    return [cell for cell in nbformat.read(NOTEBOOKS / name, 4).cells if cell.cell_type == "code"]


def test_every_notebook_is_here_without_outputs():
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == SMALL.keys()
    assert not any(cell.outputs for name in SMALL for cell in code_cells(name))


def test_the_notebooks_begin_with_the_same_cell():
    first, second = (code_cells(name)[0].source for name in SMALL)
    assert first == second


OLD = {"numpy": "2.1.3", "jax": "0.7.2", "jaxlib": "0.7.2", "flax": "0.11.2", "optax": "0.2.6"}
"""Packages that a machine of Colab has at first."""
NEW = {**OLD, "jax": "0.12.0", "jaxlib": "0.12.0", "flax": "0.12.12", "optax": "0.2.8"}
"""The packages after pip has replaced some of them."""


class Machine:
    """A machine with fake files and fake packages, on which the first cell runs."""

    def __init__(self, files=(), *, colab=True, imported=(), fails=()):
        self.files, self.packages = list(files), dict(OLD)
        self.colab, self.fails, self.extras = colab, fails, []
        self.start(imported)

    def start(self, imported=()):
        """Starts a session that has imported these packages."""
        versions = {name: SimpleNamespace(__version__=self.packages[name]) for name in imported}
        self.modules = {**versions, **({"google.colab": None} if self.colab else {})}
        self.path = []

    def run(self):
        """Runs the first cell. Returns the programs that it called, which `called` keeps too."""
        self.called = []

        def call(command, **_):
            program = "pip" if "pip" in command else command[0]
            self.called.append(program)
            if program in self.fails:
                return SimpleNamespace(returncode=1, stdout="", stderr="No space left on device")
            if program == "git":
                self.files.append(command[-1])
            else:
                self.packages.update(NEW, **{"gan-jax": "0.1.0"})
                self.extras = command[-1].removeprefix("./gan_jax[").removesuffix("]").split(",")
            return SimpleNamespace(returncode=0)

        fakes = {
            "glob": SimpleNamespace(glob=lambda pattern: fnmatch.filter(self.files, pattern)),
            "os": SimpleNamespace(
                path=SimpleNamespace(
                    exists=self.files.__contains__, abspath=lambda path: f"/content/{path}"
                )
            ),
            "subprocess": SimpleNamespace(run=call),
            "sys": SimpleNamespace(executable="python", modules=self.modules, path=self.path),
            "importlib": SimpleNamespace(
                metadata=SimpleNamespace(
                    distributions=lambda name: [name] if name in self.packages else [],
                    version=self.packages.__getitem__,
                )
            ),
        }
        names = {**vars(builtins), "__import__": lambda name, *_: fakes[name]}
        exec(code_cells("quickstart.ipynb")[0].source, {"__builtins__": names})
        return self.called


MACHINES = {
    "a CPU": ([], "experiments"),
    "a GPU": (["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"], "experiments,cuda12"),
    "a GPU that is not the first": (["/dev/nvidia3"], "experiments,cuda12"),
    "TPU v2 to v4": (["/dev/accel0", "/dev/accel1"], "experiments,tpu"),
    "TPU v5e and later": (["/dev/vfio/0", "/dev/vfio/vfio"], "experiments,tpu"),
    "TPU v6e, another group": (["/dev/vfio/12", "/dev/vfio/vfio"], "experiments,tpu"),
    "a CPU whose kernel has vfio": (["/dev/vfio/vfio"], "experiments"),
    "a GPU handed through by vfio": (["/dev/nvidia0", "/dev/vfio/7"], "experiments,cuda12"),
}
"""Machine -> its device files and the extras it needs."""


@pytest.mark.parametrize(("files", "extras"), MACHINES.values(), ids=MACHINES)
def test_on_colab_jax_is_installed_for_the_accelerator_that_is_there(files, extras):
    machine = Machine(files)
    assert machine.run() == ["git", "pip"]
    assert machine.extras == extras.split(",")
    assert machine.path == ["/content/gan_jax"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"].keys() >= set(machine.extras)


def test_elsewhere_nothing_is_installed():
    assert Machine(["/dev/nvidia0"], colab=False).run() == []


def test_a_session_that_imported_what_pip_replaced_must_restart():
    machine = Machine(imported=["numpy", "jax"])
    for called in (["git", "pip"], []):
        with pytest.raises(RuntimeError, match=r"pip has replaced jax.*restart the session"):
            machine.run()
        assert machine.called == called
    machine.start(imported=["numpy", "jax"])
    assert machine.run() == []


def test_a_session_that_imported_only_what_pip_kept_goes_on():
    assert Machine(imported=["numpy"]).run() == ["git", "pip"]


@pytest.mark.parametrize(("fails", "left"), [("git", ["git", "pip"]), ("pip", ["pip"])])
def test_a_failed_command_is_shown_and_tried_again(fails, left):
    machine = Machine(fails=[fails])
    with pytest.raises(RuntimeError, match=rf"(?s){fails}.* failed:.*No space left on device"):
        machine.run()
    machine.fails = []
    assert machine.run() == left


def test_the_versions_of_modules_are_those_that_pip_knows():
    """Otherwise the first cell would ask for a restart again and again."""
    modules = {module.__name__: module for module in (flax, jax, jaxlib, matplotlib, np, optax)}
    source = code_cells("quickstart.ipynb")[0].source
    check = source[source.index("    for name in {") :]
    assert all(f'"{name}"' in check for name in modules)
    exec(f"if True:\n{check}", {"sys": SimpleNamespace(modules=modules), "metadata": metadata})


@pytest.mark.parametrize("colab", [True, False])
@pytest.mark.parametrize("on_drive", [True, False])
def test_the_run_is_on_the_drive_only_if_that_is_asked_for_on_colab(colab, on_drive, monkeypatch):
    mounted, names = [], {}
    if colab:
        drive = SimpleNamespace(mount=mounted.append)
        monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    source = code_cells("quickstart.ipynb")[1].source
    exec(source.replace("on_drive = False", f"on_drive = {on_drive}"), names)
    if colab and on_drive:
        assert mounted == ["/content/drive"]
        assert names["runs"] == Path("/content/drive/MyDrive/gan_jax")
    else:
        assert mounted == []
        assert names["runs"] == Path("runs")


def one_session(drive):
    """Returns the cells of a session that trains on this Drive, as a program."""
    _, choice, _, training, *_ = (cell.source for cell in code_cells("quickstart.ipynb"))
    for before, after in (
        ("on_drive = False", "on_drive = True"),
        ("/content/drive/MyDrive", str(drive)),
        ("from pathlib", "from unittest.mock import Mock\nfrom pathlib"),
        ("from google.colab import drive", "drive = Mock()"),
        ('"google.colab" in sys.modules', "True"),
    ):
        assert before in choice
        choice = choice.replace(before, after)
    settings = SMALL["quickstart.ipynb"][0].replace('"num_steps": 20', '"num_steps": 300')
    return "\n".join([choice, settings, training])


@pytest.mark.slow
def test_after_a_disconnect_the_cells_resume_from_the_drive(tmp_path):
    """A disconnect ends the process with SIGKILL. The next session starts on an empty machine."""
    env = {**environment(tmp_path / "compiled"), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

    def start(drive, machine):
        machine.mkdir()
        (machine / "cells.py").write_text(one_session(drive))
        return subprocess.Popen(
            [sys.executable, "-m", "IPython", "--no-banner", "cells.py"],
            cwd=machine,
            env={**env, "IPYTHONDIR": str(machine), "PYTHONPATH": str(ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end(drive):
        restored = train.restore(drive / "gan_jax/quickstart")
        return restored.step, digest(restored.state)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    process = start(whole, tmp_path / "first")
    assert "a new run in" in process.communicate()[0]
    process = start(stopped, tmp_path / "second")
    saved = stopped / "gan_jax/quickstart/checkpoints/100"
    assert wait_for(process, saved.exists), process.communicate()
    process.kill()
    process.communicate()
    resumed = start(stopped, tmp_path / "third").communicate()[0]
    step = int(resumed.split("resuming from step ")[1].split(",")[0])
    assert 100 <= step < 300
    assert end(stopped) == end(whole)
    assert end(whole)[0] == 300


PICTURES = {
    "quickstart.ipynb": 8,
    "theory.ipynb": 15,
}
"""Notebook -> the number of pictures that it shows."""


@pytest.mark.slow  # the build of the documentation runs these cells too
@pytest.mark.filterwarnings("default")
def test_the_theory_holds_without_the_experiments():
    """The cells run in this process, because a kernel would first import everything again.

    The experiments have tests of their own, and take minutes to compile.
    """
    plt.switch_backend("agg")
    plt.close("all")
    cells = [cell.source for cell in code_cells("theory.ipynb")]
    kept = [source for source in cells if ".main(config)" not in source]
    assert len(kept) == len(cells) - 5
    names = {}
    with jax.numpy_rank_promotion("allow"):  # as it is for users
        for source in kept:
            exec(source, names)
    assert len(plt.get_fignums()) == 5
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
# Jupyter's own libraries warn of one another.
@pytest.mark.filterwarnings("default")
def test_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # they compile much, compute little
    monkeypatch.delenv("MPLBACKEND", raising=False)  # Jupyter's own shows pictures
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    for cell, source in zip(tagged, SMALL[name], strict=True):
        cell.source = source
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if any(kind.startswith("image/") for kind in output.get("data", {}))
    ]
    assert len(pictures) == PICTURES[name]
