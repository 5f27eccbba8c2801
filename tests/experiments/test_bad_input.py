"""Bad input ends before any long work, in a message that says what to change.

Every case goes through the command line's own `run`, so that a user sees `error: ...` and no
traceback.
"""

import dataclasses
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import IMAGES, config, flags, write_idx

from experiments import evaluate, gaussian_1d, mnist, sample
from gan_jax import parallel
from gan_jax.run import cli


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    """Bad input must be refused before a step is built for any layout."""

    def refuse(*_args, **_options):
        raise AssertionError("the step was about to be compiled")

    monkeypatch.setattr(parallel, "make_step", refuse)


@pytest.fixture
def idx(tmp_path):
    return write_idx(tmp_path / "idx")


@pytest.fixture
def message(monkeypatch, capsys):
    """Returns a function that runs a command and returns its error, in one line."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run(module.main, module.Config, "")
        printed = capsys.readouterr()
        assert stop.value.code not in (0, None)
        said = stop.value.code if isinstance(stop.value.code, str) else printed.err
        assert "Traceback" not in said
        return " ".join(said.replace("│", " ").split())

    return run


FLAGS = {
    "num_steps": ("--num-steps 0", "--num-steps must be at least 1, got 0"),
    "batch_size": ("--batch-size 0", "--batch-size must be at least 1, got 0"),
    "n_critic": ("--n-critic -1", "--n-critic must be at least 1, got -1"),
    "latent": ("--latent 0", "--latent must be at least 1, got 0"),
    "width": ("--width 0", "--width must be at least 1, got 0"),
    "seed": ("--seed -1", "--seed must be at least 0, got -1"),
    "large seed": ("--seed 4294967296", "--seed must be below 2**32, got 4294967296"),
    "rate": ("--generator-lr 0", "--generator-lr must be above 0, got 0.0"),
    "rate nan": ("--discriminator-lr nan", "--discriminator-lr must be above 0, got nan"),
    "b1": ("--b1 1", "--b1 must be in [0, 1), got 1.0"),
    "b2": ("--b2 -0.1", "--b2 must be in [0, 1), got -0.1"),
    "ema": ("--ema-decay 1.5", "--ema-decay must be in [0, 1), got 1.5"),
    "r1": ("--r1 -1", "--r1 must be at least 0, got -1.0"),
    "r1 by name": ("--r1 automatic", "'automatic'"),
    "r1 nan": ("--r1 nan", "--r1 must be at least 0, got nan"),
    "gradient penalty": ("--gradient-penalty -1", "--gradient-penalty must be at least 0, got -1"),
    "clip": ("--clip-weights 0", "--clip-weights must be above 0, got 0.0"),
    "clip nan": ("--clip-weights nan", "--clip-weights must be above 0, got nan"),
    "clip and r1": (
        "--clip-weights 0.01",
        "--r1 0.5 and --clip-weights 0.01 both limit D's slope: turn one off, for example with "
        "--r1 0",
    ),
    "two penalties": (
        "--r1 0 --gradient-penalty 10 --dragan 10",
        "--gradient-penalty 10.0 and --dragan 10.0 both limit D's slope: turn one off",
    ),
    "log_every": ("--log-every 0", "--log-every must be at least 1, got 0"),
    "sample_every": ("--sample-every 0", "--sample-every must be at least 1, got 0"),
    "checkpoint_every": ("--checkpoint-every 0", "--checkpoint-every must be at least 1, got 0"),
    "keep": ("--keep-checkpoints 0", "--keep-checkpoints must be at least 1, got 0"),
    "loss": ("--loss hinges", "invalid choice 'hinges'"),
    "model": ("--model vae", "invalid choice 'vae'"),
    "parallel": ("--parallel tpu", "invalid choice 'tpu'"),
    "no number": ("--batch-size many", "invalid literal for int() with base 10: 'many'"),
    "no flag": ("--batchsize 4", "Unrecognized options: --batchsize"),
    "devices": (
        "--parallel shard --batch-size 12",
        "--batch-size 12: a batch of 12 cannot be split over 8 devices: make it 8 or 16",
    ),
    "small data": (
        "--batch-size 48",
        "--batch-size 48 is more than the 40 images of mnist (idx): make it smaller",
    ),
    "held out": ("--data.held-out 40", "--data.held-out 40 leaves nothing of 40 images"),
    "dcgan": ("--model dcgan", "--model dcgan: dcgan takes images of 28, 32, 64 pixels, got 8x8"),
    "dcgan size": (  # before the folder is looked at
        "--model dcgan --data.size 30 --data.dir /nowhere",
        "--model dcgan: dcgan takes images of 28, 32, 64 pixels, got 30x30",
    ),
    "share": ("--final-lr-share 1.5", "--final-lr-share must be in [0, 1], got 1.5"),
    "final b2": ("--final-b2 1", "--final-b2 must be in [0, 1), got 1.0"),
    "ada": (
        "--augment ada --loss relativistic",
        "the signs of D's logits, which mean nothing for --loss relativistic: add --augment-p",
    ),
    "p": ("--augment-p 0.5", "--augment-p 0.5 is for --augment ada: add it"),
    "target of no sign": (
        "--augment ada --augment-p 0.5 --augment-target 0.2 --loss relativistic",
        "add --augment-p, such as 0.5, without --augment-target",
    ),
    "target": ("--augment ada --augment-target 1", "--augment-target must be between -1 and 1"),
    "target of no ada": ("--augment-target 0.2", "--augment-target 0.2 needs an adaptive p"),
    "target and p": (
        "--augment ada --augment-p 0.5 --augment-target 0.2",
        "needs an adaptive p: use --augment ada --augment-p None",
    ),
    "no labels": ("--conditional acgan", "--conditional needs images with labels: "),
    "no such start": ("--init-from nowhere", "--init-from: "),
    "source": ("--data.source disk", "invalid choice 'disk'"),
}
"""Case -> (flags added to a good command, what is said)."""


@pytest.mark.parametrize("case", sorted(FLAGS))
def test_flags(case, message, tmp_path, idx):
    added, expected = FLAGS[case]
    said = message(mnist, *flags(config(tmp_path / "run", idx)), *added.split())
    # tyro marks its choices up in its own way
    assert expected.replace("'", "") in said.replace("'", ""), said
    assert not (tmp_path / "run").exists(), "a refused run leaves nothing behind"


def png(path, size=(8, 8), damage=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(IMAGES, size)).save(path)
    if damage:
        path.write_bytes(path.read_bytes()[:60])


def truncated(folder):
    file = write_idx(folder) / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])


def not_gzip(folder):
    write_idx(folder)
    (folder / "train-images-idx3-ubyte").rename(folder / "train-images-idx3-ubyte.gz")


def cut_gzip(folder):
    file = write_idx(folder) / "train-images-idx3-ubyte"
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(file.read_bytes())[:-20])
    file.unlink()


def wrong_magic(folder):
    file = write_idx(folder) / "train-images-idx3-ubyte"
    file.write_bytes(b"PNG!" + file.read_bytes()[4:])


def mixed(folder):
    png(folder / "a.png")
    png(folder / "b.png", (9, 8))


FILES = {
    "idx without dir": ("idx", None, ["--data.dir"]),
    "no such folder": ("idx", lambda folder: None, ["--data.dir", "files"]),
    "idx truncated": ("idx", truncated, ["train-images-idx3-ubyte", "truncated"]),
    "idx not gzip": ("idx", not_gzip, ["train-images-idx3-ubyte.gz", "gzip"]),
    "idx cut gzip": ("idx", cut_gzip, ["train-images-idx3-ubyte.gz"]),
    "idx magic": ("idx", wrong_magic, ["train-images-idx3-ubyte", "wrong magic number"]),
    "empty folder": ("folder", lambda folder: folder.mkdir(), ["files", "no image"]),
    "folder is a file": ("folder", lambda folder: folder.write_text("x"), ["files", "folder"]),
    "damaged image": ("folder", lambda folder: png(folder / "a.png", damage=True), ["a.png"]),
    "mixed sizes": ("folder", mixed, ["a.png", "b.png", "--data.size"]),
}
"""Case -> (source, what makes the folder `files`, what must be named)."""


@pytest.mark.parametrize("case", sorted(FILES))
def test_files(case, message, tmp_path, idx):
    source, make, names = FILES[case]
    added = ["--data.source", source]
    settings = flags(config(tmp_path / "run", idx))
    at = settings.index("--data.source")
    if make is not None:
        make(tmp_path / "files")
        added += ["--data.dir", str(tmp_path / "files")]
    said = message(mnist, *settings[:at], *added)
    assert said.startswith("error: ")
    for name in names:
        assert name in said, said
    assert not (tmp_path / "run").exists()


def run_folder(settings):
    """Returns the folder of a run with these settings."""
    from gan_jax.run import datasets as data
    from gan_jax.run import images
    from gan_jax.run.folder import RunFolder

    record = {
        "experiment": "mnist",
        "config": dataclasses.asdict(settings),
        "data": images.describe(data.load(settings.data)),
    }
    return RunFolder(settings.workdir, record)


def made_run(folder, idx, **changes):
    """Makes the folder that a run with these settings would begin with."""
    settings = config(folder, idx, **changes)
    with run_folder(settings).visit():
        return settings


def test_a_folder_of_something_else_is_not_taken(message, tmp_path, idx):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    said = message(mnist, *flags(config(tmp_path / "run", idx)))
    assert "run exists and is not a run's folder (it has no config.json)" in said
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_a_workdir_that_is_a_file(message, tmp_path, idx):
    (tmp_path / "run").write_text("precious")
    said = message(mnist, *flags(config(tmp_path / "run", idx)))
    assert f"--workdir: {tmp_path / 'run'} cannot be written to (Not a directory)" in said
    assert (tmp_path / "run").read_text() == "precious"


@pytest.mark.parametrize("flag", ["--workdir", "--out"])
def test_a_folder_that_cannot_be_written_to_is_found_before_anything_is_read(
    flag, message, tmp_path, idx, monkeypatch
):
    from gan_jax.run import datasets

    monkeypatch.setattr(datasets, "load", lambda *_, **__: pytest.fail("images were read"))
    settings = flags(config(Path("/proc/x"), idx))
    if flag == "--workdir":
        said = message(mnist, *settings)
    else:
        images = str(write_idx(tmp_path / "y"))
        said = message(evaluate, *("--images", images, "--reference", images, "--out", "/proc/x"))
    assert f"{flag}: /proc/x cannot be written to" in said
    assert "choose another folder" in said


def test_a_new_run_that_cannot_be_saved_is_refused_by_every_experiment(message):
    said = message(gaussian_1d, "--workdir", "/proc/x")
    assert "--workdir: /proc/x cannot be written to" in said


@pytest.mark.parametrize("command", [mnist, sample])
def test_a_bad_value_does_not_wait_for_the_import_of_matplotlib(command, message, monkeypatch):
    import gan_jax.run

    for name in ("images", "plots"):
        monkeypatch.delattr(gan_jax.run, name, raising=False)
        monkeypatch.setitem(sys.modules, f"gan_jax.run.{name}", None)
    run = ["--run", "x"] if command is sample else []
    assert "--seed must be at least 0, got -1" in message(command, *run, "--seed", "-1")


def test_a_deleted_current_folder(message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the current folder was deleted: change to another one" in message(mnist)


def test_a_device_that_jax_does_not_know(message, monkeypatch, tmp_path, idx):
    def refuse(layout):
        raise RuntimeError("Unable to initialize backend 'foo': ... (set JAX_PLATFORMS='' to ...)")

    monkeypatch.setattr(parallel, "num_devices", refuse)
    said = message(mnist, *flags(config(tmp_path / "run", idx)))
    assert said.startswith("error: Unable to initialize backend 'foo'")
    monkeypatch.setattr(parallel, "num_devices", lambda layout: {}[layout])
    with pytest.raises(KeyError):
        message(mnist, *flags(config(tmp_path / "run", idx)))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("loss", "hinge", "config.loss: 'hinge' there, 'non_saturating' asked for"),
        ("seed", 7, "config.seed: 7 there, 0 asked for"),
        ("parallel", "pmap", "config.parallel: 'pmap' there, 'jit' asked for"),
    ],
)
def test_a_run_with_other_settings(name, value, said, message, tmp_path, idx):
    made_run(tmp_path / "run", idx, **{name: value})
    assert said in message(mnist, *flags(config(tmp_path / "run", idx)))


def test_a_run_that_is_at_work(message, tmp_path, idx):
    settings = config(tmp_path / "run", idx)
    with run_folder(settings).visit():
        said = message(mnist, *flags(settings))
    assert f"another command is at work in {tmp_path / 'run'}: wait until it is done" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_on_other_data(message, tmp_path, idx):
    made_run(tmp_path / "run", idx)
    write_idx(idx, IMAGES[::-1])
    assert "data.sha256: " in message(mnist, *flags(config(tmp_path / "run", idx)))


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_damaged_config(text, message, tmp_path, idx):
    made_run(tmp_path / "run", idx)
    (tmp_path / "run" / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    said = message(mnist, *flags(config(tmp_path / "run", idx)))
    assert "config.json is damaged" in said
    assert "restore it, or use a new folder" in said


def test_checkpoints_that_cannot_be_read(message, tmp_path, idx):
    made_run(tmp_path / "run", idx)
    empty = tmp_path / "run" / "checkpoints" / "4"
    empty.mkdir(parents=True)
    said = message(mnist, *flags(config(tmp_path / "run", idx)))
    assert "can be read" in said
    assert "move the folder away to begin anew" in said
    assert empty.exists()


SAMPLE = {
    "no run": (["--run", "nowhere"], "nowhere is not a run's folder: it has no config.json"),
    "no flag": ([], "--run"),
    "num": (["--run", "run", "--num", "0"], "--num must be at least 1, got 0"),
    "seed": (["--run", "run", "--seed", "-1"], "--seed must be at least 0, got -1"),
    "suffix": (
        ["--run", "run", "--out", "x.png"],
        "--out must be the name of a file and end in .npz, got ",
    ),
    "exists": (["--run", "run", "--out", "old.npz"], "old.npz exists: choose another --out"),
    "folder": (["--run", "run", "--out", "no/x.npz"], "--out: there is no folder"),
    "no checkpoint": (["--run", "run"], "run has no checkpoint yet: let the run go on"),
    "other experiment": (
        ["--run", "other"],
        "is a run of stacked_mnist: only runs of",
    ),
    "other version": (["--run", "odd"], "config.json does not describe a run of this version"),
}
"""Case -> (flags of `experiments.sample`, what is said)."""


@pytest.mark.parametrize("case", sorted(SAMPLE))
def test_sample(case, message, tmp_path, idx, monkeypatch):
    made_run(tmp_path / "run", idx)
    for name, experiment in (("odd", "mnist"), ("other", "stacked_mnist")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"experiment": experiment}))
    (tmp_path / "old.npz").write_text("kept")
    monkeypatch.chdir(tmp_path)
    arguments, expected = SAMPLE[case]
    assert expected in message(sample, *arguments)
    assert Path("old.npz").read_text() == "kept"
