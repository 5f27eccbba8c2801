"""The command `gan-jax`, and the wheel that installs it."""

import dataclasses
import os
import signal
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from shutil import copy, copytree

import numpy as np
import pytest
from setuptools import find_packages
from small_runs import config, flags, shared_compilations, write_idx

import gan_jax_command
from experiments import mnist, sample
from gan_jax.run.commands import sample as sampling
from gan_jax.run.commands import train

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPT = "import sys, gan_jax_command; sys.argv[0] = 'gan-jax'; gan_jax_command.main()"
FLAGS = [
    "--data.source",
    "embedded",
    "--model",
    "mlp",
    "--width",
    "8",
    "--latent",
    "4",
    "--batch-size",
    "8",
    "--log-every",
    "2",
    "--sample-every",
    "2",
    "--evaluate-every",
    "0",
    "--checkpoint-every",
    "2",
    "--parallel",
    "jit",
]


def gan_jax(*arguments, **options):
    """Runs the command in a process of its own; returns its exit status, output and errors."""
    line = [sys.executable, "-c", SCRIPT, *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **options.pop("env", {})}
    run = subprocess.run(line, env=env, capture_output=True, text=True, **options)
    return run.returncode, run.stdout, run.stderr


def test_a_wheel_gets_the_package_and_the_command_alone():
    tools = PROJECT["tool"]["setuptools"]
    found = find_packages(str(ROOT), **tools["packages"]["find"])
    assert {name.split(".")[0] for name in found} == {"gan_jax"}
    assert {"gan_jax.run.commands", "gan_jax.run.datasets", "gan_jax.run.plots"} <= set(found)
    assert PROJECT["project"]["scripts"] == {"gan-jax": "gan_jax_command:main"}
    assert tools["py-modules"] == [gan_jax_command.__name__]


def test_the_commands_are_the_modules_of_their_room():
    modules = {path.stem for path in (ROOT / "gan_jax" / "run" / "commands").glob("[!_]*.py")}
    assert gan_jax_command.COMMANDS.keys() == modules - {"recipes"}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(arguments):
    status, said, errors = gan_jax(*arguments)
    assert (status, errors) == (0, "")
    for name, summary in gan_jax_command.COMMANDS.items():
        assert f"    {name}" in said
        assert summary in said


def test_the_version_is_that_of_the_package():
    assert gan_jax("--version") == (0, f"gan-jax {version('gan-jax')}\n", "")


@pytest.mark.parametrize("flag", ["trian", "--workdir"])
def test_an_unknown_command_is_refused(flag):
    status, said, errors = gan_jax(flag)
    assert (status, said) == (2, "")
    assert "gan-jax: error: " in errors
    assert flag in errors


def test_help_and_version_do_not_wait_for_jax():
    code = f"import sys, atexit; atexit.register(lambda: print('jax' in sys.modules)); {SCRIPT}"
    for argument in ("--help", "--version"):
        run = subprocess.run(
            [sys.executable, "-c", code, argument], check=True, capture_output=True, text=True
        )
        assert run.stdout.endswith("False\n")


@pytest.mark.parametrize(("name", "package"), [("train", "tyro"), ("sample", "filelock")])
def test_without_the_extra_it_says_what_to_install(name, package):
    missing = f"import sys; sys.modules[{package!r}] = None; {SCRIPT}"
    run = subprocess.run(
        [sys.executable, "-c", missing, name], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 1
    assert run.stderr == f"error: {package} is not installed: pip install 'gan-jax[experiments]'\n"


@pytest.mark.parametrize(
    "arguments", [["/bin/gan-jax", "evaluate", "--run", "x"], ["/x/experiments/evaluate.py"]]
)
def test_a_signal_names_a_command_that_begins_again(arguments, monkeypatch, capfd):
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr(os, "_exit", lambda status: None)
    gan_jax_command._end(signal.SIGINT, None)
    assert capfd.readouterr().err == (
        "evaluate was stopped by SIGINT: saved files are intact. The same command begins again "
        "from the start\n"
    )


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_jax_is_imported_ends_it_with_a_message(signum, code, tmp_path):
    # Short sleeps: a signal that comes just before a long one would be handled only after it.
    wait = "import time\nprint('there', flush=True)\nfor _ in range(6000): time.sleep(0.1)\n"
    (tmp_path / "jax.py").write_text(wait)
    # Tests may run with SIGINT ignored.
    heed = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {SCRIPT}"
    with subprocess.Popen(
        [sys.executable, "-c", heed, "train"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "there\n"
        process.send_signal(signum)
        said = process.stderr.read()
    assert process.returncode == code
    assert said == (
        f"stopped by {signum.name}: saved files are intact. The same command resumes a training "
        "from its last save, and begins any other work again\n"
    )


@pytest.mark.parametrize("name", gan_jax_command.COMMANDS)
def test_the_help_of_a_command_fits_on_two_screens_of_50_lines(name):
    status, said, errors = gan_jax(name, "--help")
    assert (status, errors) == (0, "")
    assert said.startswith(f"usage: gan-jax {name} [-h] ")
    assert sum(max(1, -(-len(line) // 100)) for line in said.splitlines()) <= 100


def test_the_help_of_an_experiment_names_it_as_its_user_typed_it():
    line = [sys.executable, "-m", "experiments.sample", "--help"]
    said = subprocess.run(line, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert said.startswith("usage: python -m experiments.sample [-h] ")


def test_both_doors_lead_to_the_same_command():
    assert (mnist.Config, mnist.main, mnist.build) == (train.Config, train.main, train.build)
    assert (sample.Config, sample.main) == (sampling.Config, sampling.main)


def test_a_run_of_one_door_is_resumed_and_sampled_by_the_other(tmp_path, monkeypatch, capsys):
    """`gan-jax` does not import `experiments`, which may be a package of the user's own."""
    monkeypatch.setattr(gan_jax_command, "end_on_signals", lambda: None)  # the tests' own process

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["gan-jax", *map(str, arguments)])
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name.split(".")[0] == "experiments"]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, "experiments", None)
            gan_jax_command.main()

    settings = config(tmp_path / "run", write_idx(tmp_path / "idx"), num_steps=4)
    with shared_compilations(tmp_path / "compiled"):
        command("train", *flags(settings))
        mnist.main(dataclasses.replace(settings, num_steps=6))
        assert "resuming from step 4" in capsys.readouterr().out
        drawn = sample.main(sample.Config(run=settings.workdir, out=tmp_path / "a.npz", num=9))
        command("sample", "--run", settings.workdir, "--out", tmp_path / "b.npz", "--num", 9)
    assert "9 samples of step 6" in capsys.readouterr().out
    with np.load(tmp_path / "b.npz") as archive:
        np.testing.assert_array_equal(archive["x"], drawn)


@pytest.mark.slow
def test_a_wheel_trains_and_samples_outside_the_checkout(tmp_path):
    """The environment is new. It has no dependency first, and then those of this environment."""
    source = tmp_path / "source"  # a build leaves files beside its sources
    for package in ("gan_jax", "experiments"):
        copytree(ROOT / package, source / package)
    for file in ("gan_jax_command.py", "pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / file, source)
    environment, work = tmp_path / "environment", tmp_path / "work"
    python, script = environment / "bin" / "python", environment / "bin" / "gan-jax"
    work.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*line):
        line = list(map(str, line))
        return subprocess.run(line, cwd=work, env=env, capture_output=True, text=True)

    def done(*line):
        process = run(*line)
        assert process.returncode == 0, process.stderr
        return process.stdout

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    done(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        *("gan_jax", "gan_jax_command.py")
    }

    done(sys.executable, "-m", "venv", "--without-pip", environment)
    done(*pip, "--python", python, "install", "--no-deps", wheel)
    bare = run(script, "train")
    assert bare.returncode == 1
    assert bare.stderr == "error: jax is not installed: pip install 'gan-jax[experiments]'\n"
    (site,) = environment.glob("lib/python*/site-packages")
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (site / "rest.pth").write_text("\n".join(sorted(paths)))

    where = done(python, "-c", "import gan_jax; print(gan_jax.__file__)")
    assert Path(where.strip()).is_relative_to(environment)
    (work / "experiments.py").write_text("raise AssertionError('the user has a module like this')")
    done(script, "train", "--workdir", "run", "--num-steps", "2", *FLAGS)
    said = done(script, "train", "--workdir", "run", "--num-steps", "4", *FLAGS)
    assert "resuming from step 2" in said
    assert "5 samples of step 4" in done(script, "sample", "--run", "run", "--num", "5")
    with np.load(work / "samples.npz") as archive:
        assert archive["x"].shape == (5, 28, 28, 1)
