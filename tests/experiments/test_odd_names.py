"""Folders and files of any name: each works, or is refused before anything is written."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import config, flags, write_idx
from test_killed import ROOT, environment

from gan_jax.errors import UserError
from gan_jax.run import cli, datasets, plots
from gan_jax.run.commands import sample
from gan_jax.run.files import whole
from gan_jax.run.folder import RunFolder, read_config

NAMES = {
    "brackets": "lr[0.1]",
    "backslash": r"a\b\n",
    "colon": "a:b",
    "gs": "gs:",
    "gs address": "gs://bucket/x",
    "s3 address": "s3://bucket/x",
    "file address": "file:x",
    "quotes": "q'u\"o",
    "spaces": " a  b ",
    "unicode": "ünï☃",
    "newline": "new\nline",
    "long": "x" * 200,
    "patterns": "*?%s{a}#$HOME",
    "dash": "-x",
    "dots": "..x",
    "slash at the end": "a/",
    "through the folder above": "a/../b",
    "tilde": "./~x",
    "unknown home": "~nobody-of-this-name/x",
    "home": "~/x",
}


@dataclasses.dataclass(frozen=True)
class Paths:
    """Has a flag for each kind of path."""

    workdir: Path = Path("runs/x")
    """Has a default."""
    data: datasets.Config = dataclasses.field(default_factory=datasets.Config)
    """Nested, and may be None."""


def read(monkeypatch, *arguments):
    """Returns the paths that a command parses from its flags."""
    found = []
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    cli.run(found.append, Paths, "")
    return found[0].workdir, found[0].data.dir


def meant(name, home):
    """Returns the path that a name means, without the code under test."""
    expanded = home + name[1:] if name.startswith("~/") else name
    return os.path.normpath(os.path.join(os.getcwd(), expanded))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_all_flags_read_a_path_alike(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    paths = read(monkeypatch, f"--workdir={name}", f"--data.dir={name}")
    for path in paths:
        assert path.is_absolute()
        assert os.path.normpath(path) == meant(name, str(tmp_path / "home"))


def test_defaults_are_left_as_they_are(monkeypatch):
    assert read(monkeypatch) == (Path("runs/x"), None)


@pytest.mark.parametrize("flag", ["--workdir", "--data.dir"])
@pytest.mark.parametrize(
    ("name", "message"), [("", "the path is empty"), ("\udcff", "the path is not text in UTF-8")]
)
def test_what_is_no_path_is_refused(flag, name, message, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        read(monkeypatch, f"{flag}={name}")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_everything_in_a_run_but_checkpoints_is_written_and_read(name, tmp_path, monkeypatch):
    tensorboard = pytest.importorskip("tensorboardX")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path, _ = read(monkeypatch, f"--workdir={name}")
    (tmp_path / "a").mkdir(exist_ok=True)  # that a/../b be a path
    folder = RunFolder(path, {"experiment": "x"})
    with folder.visit():
        folder.log({"step": 2})
        folder.samples.mkdir()
        for step in (0, 2):
            picture = plots.grid(np.zeros((4, 2, 2, 1), np.uint8))
            plots.save_image(picture, folder.samples / f"{step:07d}.png")
        grids = sorted(folder.samples.glob("*.png"))
        plots.history(grids, folder.path / "samples.gif", folder.path / "history.png")
        plots.curves(folder.metrics(), folder.path / "curves.png")
        with whole(folder.path / "x.npz") as file:
            np.savez_compressed(file, x=np.arange(3))
        with tensorboard.SummaryWriter(str(folder.path / "tensorboard")) as writer:
            writer.add_scalar("value", 1.0, 2)
        folder.summarise({"step": 2})
    assert read_config(path) == {"experiment": "x"}
    there = Path(meant(name, str(tmp_path / "home")))
    assert sorted(entry.name for entry in there.iterdir() if entry.name != ".lock") == [
        *("config.json", "curves.png", "history.png", "metrics.jsonl", "samples", "samples.gif"),
        *("summary.json", "tensorboard", "x.npz"),
    ]
    assert len(grids) == 2
    assert len(list((there / "tensorboard").iterdir())) == 1


def test_a_name_that_is_too_long_ends_in_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command", f"--workdir={tmp_path / ('x' * 300)}"])
    with pytest.raises(SystemExit, match="File name too long"):
        cli.run(lambda settings: RunFolder(settings.workdir, {}), Paths, "")
    assert list(tmp_path.iterdir()) == []


TINY = {
    "dirac_gan": "--num-steps 3",
    "gaussian_1d": "--n-critic 1 --generator-lr 1e-3 --num-updates 4 --warmup 1 --seeds 1 "
    "--batch-size 4 --width 2 --frames 1",
    "mixture_2d": "--num-steps 4 --batch-size 4 --width 2 --generator-depth 1 "
    "--discriminator-depth 1 --seeds 1 --num-samples 20 --frames 2 --draws 1",
    "mixture_table": "--data ring --ways plain --num-steps 20 --batch-size 4 --seeds 1 "
    "--num-samples 20",
    "optimal_discriminator": "--num-steps 2 --batch-size 4 --record-every 1 --num-samples 10",
    "stacked_mnist": "--data.source embedded --discriminator-width 2 --num-steps 1 --batch-size 2 "
    "--latent 2 --num-samples 20 --counts 1 --loss non_saturating --penalty",
    "synchronisation": "--generator-steps 1 --num-cycles 10 --freeze-after 10 --frozen-steps 10 "
    "--seeds 1 --batch-size 4 --width 2",
    "vanishing_gradient": "--epochs 1 --num-steps 10 --width 2 --num-minibatches 2",
}
"""Command that writes to --workdir -> the flags of its smallest run."""


def command(name, *arguments, cwd, cache):
    env = {
        **environment(cache),
        "PYTHONPATH": str(ROOT),
        "HOME": str(cwd / "home"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    line = [sys.executable, "-m", f"experiments.{name}", *arguments]
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_command_writes_to_a_folder_of_an_odd_name(name, tmp_path):
    """All odd characters are in one name, because all commands share the code for paths."""
    odd = "gs:[0.1]\\ 'q\"\n*%s#{ü}"
    for _ in range(2):  # the second time it finds what it left
        done = command(name, f"--workdir={odd}", *TINY[name].split(), cwd=tmp_path, cache="")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / odd / "summary.json").exists()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "home"] == [odd]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_training_resumes_and_is_sampled_under_any_name(name, tmp_path, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "compiled"
    (tmp_path / "home").mkdir()
    (tmp_path / "a").mkdir()
    there = Path(meant(name, str(tmp_path / "home")).replace(os.getcwd(), str(tmp_path), 1))
    idx = write_idx(there.with_name(there.name + "d"))
    names = [f"--workdir={name}", f"--data.dir={name.rstrip('/')}d"]
    line = flags(config(tmp_path, idx))
    line = line[2 : line.index("--data.dir")]
    for steps in ("4", "6"):
        done = command(
            "mnist", *line, *names, "--num-steps", steps, "--tensorboard", cwd=tmp_path, cache=cache
        )
        assert done.returncode == 0, done.stderr
    assert "resuming from step 4" in done.stdout
    out = f"--out={name.rstrip('/')}.npz"
    done = command("sample", f"--run={name}", out, "--num", "3", cwd=tmp_path, cache=cache)
    assert done.returncode == 0, done.stderr
    with np.load(there.with_name(there.name + ".npz")) as archive:
        assert archive["x"].shape == (3, 8, 8, 1)
    assert there.with_name(there.name + ".npz").with_suffix(".png").exists()


def test_sampling_more_than_memory_holds_is_refused():
    with pytest.raises(UserError, match=r"--num 10000000000000 needs 596,046.4 GiB"):
        sample._room(10**13, (8, 8, 1))
    with pytest.raises(UserError, match="--num"):
        sample._room(10**30, (8, 8, 1))
