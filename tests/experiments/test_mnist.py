"""Whole runs of `experiments.mnist.main`, in one process, on a small data set."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import signal
import struct
import sys
import threading
import typing

import chex
import jax
import numpy as np
import optax
import pytest
from PIL import Image
from small_runs import IMAGES, config, digest, flags, shared_compilations, snapshot, write_idx

from experiments import mnist
from gan_jax import losses
from gan_jax.errors import UserError
from gan_jax.optimizers import adam
from gan_jax.run import cli, datasets, session
from gan_jax.run.checkpoint import Checkpoints
from gan_jax.run.commands import train
from gan_jax.run.loop import NonFinite


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory):
    with shared_compilations(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="module")
def idx(tmp_path_factory):
    return write_idx(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def done(tmp_path_factory, idx):
    """Returns the folder of a run of 6 steps, the digest of its last state, and its threads."""
    folder = tmp_path_factory.mktemp("done") / "run"
    before = set(threading.enumerate())
    state = mnist.main(config(folder, idx))
    left = set(threading.enumerate()) - before
    return folder, digest(state), left


def read_json(file):
    return json.loads(file.read_text())


def records(folder):
    """Returns the logged records without their times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    times = {"seconds", "steps_per_second"}
    return [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]


def newest(settings):
    """Returns step and state of a run's newest checkpoint."""
    _, template, _ = mnist.build(settings, None, (8, 8, 1))
    folder = settings.workdir / "checkpoints"
    with contextlib.closing(Checkpoints(folder, keep=None)) as checkpoints:
        return checkpoints.restore(template)


def test_a_run_leaves_what_it_promises(done, idx):
    folder, _, _ = done
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        *("config.json", "metrics.jsonl", "summary.json", "samples", "checkpoints"),
        *("samples.gif", "history.png", "curves.png"),
    }
    assert read_json(folder / "config.json")["config"]["data"]["dir"] == str(idx)
    grids = sorted((folder / "samples").iterdir())
    assert [grid.name for grid in grids] == [f"{step:07d}.png" for step in (0, 2, 4, 6)]
    for picture in (*grids, folder / "history.png", folder / "curves.png"):
        with Image.open(picture) as image:
            image.load()
    with Image.open(folder / "samples.gif") as animation:
        assert animation.n_frames == 4
    with Image.open(grids[0]) as first, Image.open(grids[-1]) as last:
        assert first.size == last.size == (8 * 8 * 9, 8 * 8 * 9)  # 64 images, nine times as large
        assert not np.array_equal(first, last)


def test_metrics_are_what_a_gan_user_watches(done):
    lines = records(done[0])
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert line.keys() >= {
            *("discriminator_loss", "generator_loss", "value", "jsd_lower_bound"),
            *("real_accuracy", "fake_accuracy"),
        }
        assert line["jsd_lower_bound"] == pytest.approx((line["value"] + math.log(4)) / 2, abs=1e-6)


def test_the_summary_says_of_what_and_on_what(done):
    summary = read_json(done[0] / "summary.json")
    sha256 = hashlib.sha256(repr((40, 8, 8, 1)).encode() + IMAGES.tobytes()).hexdigest()
    assert summary["data"] == {
        "name": "mnist",
        "source": "idx",
        "count": 40,
        "shape": [8, 8, 1],
        "held_out": 0,
        "classes": None,
        "counts": None,
        "sha256": sha256,
    }
    assert summary["step"] == summary["metrics"]["step"] == 6
    assert summary["wall_seconds"] > 0
    assert summary["versions"].keys() >= {"jax", "flax", "optax", "gan-jax"}
    assert summary["devices"] == ["cpu:cpu"] * jax.device_count()


def test_the_first_line_comes_before_the_images_are_read_and_after_the_flags_are_checked(
    tmp_path, idx, monkeypatch, capsys
):
    def stop(*_, **__):
        raise UserError("reading")

    monkeypatch.setattr(datasets, "load", stop)
    settings = config(tmp_path / "run", idx)
    for where, of in [(idx, f"in {idx}"), (None, "of mnist")]:
        data = dataclasses.replace(settings.data, dir=where)
        with pytest.raises(UserError, match="reading"):
            mnist.main(dataclasses.replace(settings, data=data))
        line = f"reading the images {of}, then building the networks\n"
        assert capsys.readouterr().out == line
    with pytest.raises(UserError, match="--n-critic"):
        mnist.main(dataclasses.replace(settings, n_critic=0))
    assert capsys.readouterr().out == ""


def test_the_last_checkpoint_is_the_state_returned(done, idx):
    folder, bits, _ = done
    step, state = newest(config(folder, idx))
    assert (step, digest(state)) == (6, bits)


def test_no_thread_of_ours_is_left(done):
    ours = {thread for thread in done[2] if thread.name != "tqdm_monitor"}  # one in a process
    for thread in ours:
        thread.join(timeout=60)  # Orbax tells its last one to end, and does not wait for that
    assert not any(thread.is_alive() for thread in ours)


def test_the_same_seed_gives_the_same_bits(done, idx, tmp_path):
    assert digest(mnist.main(config(tmp_path / "again", idx))) == done[1]
    assert records(tmp_path / "again") == records(done[0])


def test_another_seed_gives_others(done, idx, tmp_path):
    assert digest(mnist.main(config(tmp_path / "other", idx, seed=1))) != done[1]


def test_other_logging_gives_the_same_bits(done, idx, tmp_path):
    cadence = {"log_every": 3, "sample_every": 2, "checkpoint_every": 5}
    assert digest(mnist.main(config(tmp_path / "run", idx, **cadence))) == done[1]


def test_a_longer_run_goes_on_as_if_it_had_been_asked_for_at_first(done, idx, tmp_path, capsys):
    folder = shutil.copytree(done[0], tmp_path / "run")
    longer = mnist.main(config(folder, idx, num_steps=9))
    assert "resuming from step 6" in capsys.readouterr().out
    whole = mnist.main(config(tmp_path / "whole", idx, num_steps=9))
    assert digest(longer) == digest(whole)
    assert records(folder) == records(tmp_path / "whole")
    assert (folder / "samples" / "0000009.png").read_bytes() == (
        tmp_path / "whole" / "samples" / "0000009.png"
    ).read_bytes()


def test_a_run_goes_on_with_other_logging_to_the_same_bits(done, idx, tmp_path):
    folder = tmp_path / "run"
    mnist.main(config(folder, idx, num_steps=4))
    cadence = {"log_every": 3, "sample_every": 3, "checkpoint_every": 3}
    assert digest(mnist.main(config(folder, idx, **cadence))) == done[1]


def test_the_settings_name_the_command_and_the_images_and_runs_of_old_names_resume(
    done, idx, tmp_path
):
    folder = shutil.copytree(done[0], tmp_path / "run")
    settings = read_json(folder / "config.json")
    assert settings["experiment"] == "train"
    settings["experiment"] = "mnist"  # as earlier versions named it
    settings["config"]["data"]["name"] = "the default"
    (folder / "config.json").write_text(json.dumps(settings))
    assert digest(mnist.main(config(folder, idx))) == done[1]
    assert train.restore(folder).step == 6
    assert mnist.main(config(folder, idx, num_steps=7)).generator.step == 7
    settings = read_json(folder / "config.json")
    assert settings["experiment"] == "mnist"
    assert settings["config"]["data"]["name"] == "mnist"
    photos = datasets.Dataset(IMAGES[..., None], None, "photos", "folder", IMAGES[:0])
    assert train.with_classes(mnist.Config(), photos, None)[0].data.name == "photos"


def test_a_setting_that_an_earlier_version_lacked_counts_as_its_default(done, idx, tmp_path):
    folder = shutil.copytree(done[0], tmp_path / "run")
    settings = read_json(folder / "config.json")
    del settings["config"]["augment_target"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"config.augment_target: 0.6 there, 0.2 asked for"):
        mnist.main(config(folder, idx, augment="ada", augment_target=0.2))
    assert mnist.main(config(folder, idx, num_steps=7)).generator.step == 7
    assert read_json(folder / "config.json")["config"]["augment_target"] == 0.6


def test_a_complete_run_says_so_and_touches_nothing(done, idx, capsys):
    folder, bits, _ = done
    before = snapshot(folder)
    state = mnist.main(config(folder, idx))
    assert "complete at step 6" in capsys.readouterr().out
    assert digest(state) == bits
    assert snapshot(folder) == before


def test_from_a_corrupt_checkpoint_it_falls_back_to_the_same_end(done, idx, tmp_path, capsys):
    folder = shutil.copytree(done[0], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "6" / "state")
    assert digest(mnist.main(config(folder, idx))) == done[1]
    said = capsys.readouterr().out
    assert "checkpoint 6 cannot be read" in said
    assert "resuming from step 4" in said
    assert records(folder) == records(done[0])


def test_a_run_killed_before_its_summary_gets_it_without_training(done, idx, tmp_path, monkeypatch):
    folder = shutil.copytree(done[0], tmp_path / "run")
    for name in ("summary.json", "samples.gif"):
        (folder / name).unlink()
    monkeypatch.setattr(session, "make_chunk", lambda step, length: pytest.fail)
    assert digest(mnist.main(config(folder, idx))) == done[1]
    assert read_json(folder / "summary.json")["step"] == 6
    assert (folder / "samples.gif").exists()


def test_the_same_data_found_another_way_go_on(done, idx, tmp_path):
    folder = shutil.copytree(done[0], tmp_path / "run")
    mnist.main(config(folder, idx, num_steps=8, data=datasets.Config(source="auto", dir=idx)))
    assert read_json(folder / "summary.json")["step"] == 8


@pytest.mark.parametrize("layout", ["shard", pytest.param("pmap", marks=pytest.mark.slow)])
def test_eight_devices_train_as_one_does(layout, idx, tmp_path, monkeypatch):
    """Equal to 2e-5 under SGD: Adam divides each gradient by its size, rounding errors too.

    Seed 1: from seed 0 a rounding error turns the sign of a ReLU's input on some processors.
    """
    monkeypatch.setattr("gan_jax.run.commands.train.adam", lambda rate, b1, b2: optax.sgd(0.05))

    def seeded(folder, **options):
        return config(folder, idx, seed=1, **options)

    def train(layout):
        state = mnist.main(seeded(tmp_path / layout, parallel=layout, num_steps=4))
        return jax.device_get(state.replace(key=None))

    first = mnist.build(seeded(tmp_path), None, (8, 8, 1))[1]
    one = train("jit")
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), one.discriminator.params, first.discriminator.params
    )
    assert max(jax.tree.leaves(moved)) > 1e-2
    chex.assert_trees_all_close(train(layout), one, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"loss": "hinge"}, "config.loss: 'non_saturating' there, 'hinge' asked for"),
        ({"seed": 7}, "config.seed: 0 there, 7 asked for"),
        ({"parallel": "shard"}, "config.parallel: 'jit' there, 'shard' asked for"),
        ({"images": 255 - IMAGES}, "data.sha256: "),
        ({"images": IMAGES[:39]}, "data.count: 40 there, 39 asked for"),
    ],
    ids=["loss", "seed", "layout", "pixels", "number"],
)
def test_any_other_change_is_refused_by_name(change, difference, done, idx, tmp_path):
    before = snapshot(done[0])
    images = change.pop("images", None) if "images" in change else None
    data = idx if images is None else write_idx(tmp_path / "data", images)
    with pytest.raises(UserError, match="holds a run with other settings") as refused:
        mnist.main(config(done[0], data, **change))
    assert difference in str(refused.value)
    assert snapshot(done[0]) == before


def test_a_state_that_is_not_finite_stops_the_run_unsaved(idx, tmp_path, monkeypatch):
    """G's update 6 spoils its weights, which no metric has seen when step 6 is to be saved."""
    settings = config(tmp_path / "run", idx, num_steps=20, generator_lr=2e-3)

    def failing(rate, **options):
        if rate == settings.generator_lr:
            return adam(lambda count: jax.numpy.where(count < 5, rate, jax.numpy.nan), **options)
        return adam(rate, **options)

    monkeypatch.setattr("gan_jax.run.commands.train.adam", failing)
    with pytest.raises(NonFinite, match="the state is not finite at step 6") as stop:
        mnist.main(settings)
    assert "last good checkpoint is of step 4" in str(stop.value)
    assert "lower learning rate" in str(stop.value)
    step, state = newest(settings)
    assert step == state.generator.step == 4
    chex.assert_tree_all_finite(state.replace(key=None))


def test_a_loss_that_is_not_finite_is_caught_before_anything_is_saved(idx, tmp_path):
    settings = config(tmp_path / "run", idx, discriminator_lr=1e30, loss="least_squares")
    with pytest.raises(
        NonFinite,
        match=r"generator_loss not finite at step 1\. No checkpoint was saved yet\..*lower",
    ):
        mnist.main(settings)
    assert settings.workdir.is_dir()
    assert not any(path.is_dir() for path in settings.workdir.glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_stopped_command_saves_and_the_same_one_resumes(
    signum, code, done, idx, tmp_path, monkeypatch, capsys
):
    settings = config(tmp_path / "run", idx, checkpoint_every=100)
    watch = session.hooks.watch

    def watching(*args, **options):
        hook = watch(*args, **options)

        def start(step, state, metrics):
            if step == 2:
                os.kill(os.getpid(), signum)
            return hook.start(step, state, metrics)

        return hook._replace(start=start)

    def command():
        cli.run(mnist.main, mnist.Config, "")

    monkeypatch.setattr(sys, "argv", ["mnist", *flags(settings)])
    with monkeypatch.context() as patch:
        patch.setattr(session.hooks, "watch", watching)
        with pytest.raises(SystemExit) as stop:
            command()
    assert stop.value.code == code
    said = capsys.readouterr().err
    assert f"stopped by {signum.name} at step 4, saved. The same command resumes." in said
    assert newest(settings)[0] == 4
    command()
    assert "resuming from step 4" in capsys.readouterr().out
    assert digest(newest(settings)[1]) == done[1]
    assert records(settings.workdir) == records(done[0])


def test_tensorboard_gets_the_figures_and_the_pictures(idx, tmp_path):
    pytest.importorskip("tensorboardX")
    mnist.main(config(tmp_path / "run", idx, num_steps=2, tensorboard=True))
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    written = events.read_bytes()
    for tag in (b"discriminator_loss", b"generator_loss", b"value", b"samples"):
        assert tag in written


def tensorboard_steps(folder):
    """Returns the steps of V that TensorBoard shows: a START makes it forget later ones."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    steps = []
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        rest = file.read_bytes()
        while rest:
            (length,) = struct.unpack("<Q", rest[:8])
            event, rest = Event.FromString(rest[12 : 12 + length]), rest[16 + length :]
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                steps = [step for step in steps if step < event.step]
            steps += [event.step for value in event.summary.value if value.tag == "value"]
    return steps


def test_what_is_logged_again_is_logged_once(idx, tmp_path):
    """Such a run was killed after a record and before the checkpoint of its step."""
    pytest.importorskip("tensorboardX")
    settings = config(tmp_path / "run", idx, tensorboard=True)
    events = settings.workdir / "tensorboard"
    mnist.main(settings)
    (file,) = events.iterdir()
    file.rename(events / file.name.replace("tfevents.", "tfevents.0"))  # not in the same second
    shutil.rmtree(settings.workdir / "checkpoints" / "6")
    mnist.main(settings)
    assert tensorboard_steps(events) == [2, 4, 6]
    assert [record["step"] for record in records(settings.workdir)] == [2, 4, 6]


@pytest.mark.parametrize("damage", ["cut grid", "no grids", "no record", "all records"])
def test_what_is_damaged_does_not_keep_a_run_from_its_end(damage, done, idx, tmp_path, capsys):
    folder = shutil.copytree(done[0], tmp_path / "run")
    (folder / "summary.json").unlink()
    metrics, grid = folder / "metrics.jsonl", folder / "samples" / "0000002.png"
    lines = metrics.read_text().splitlines(keepends=True)
    damaged = {
        "cut grid": lambda: grid.write_bytes(grid.read_bytes()[:200]),
        "no grids": lambda: [path.unlink() for path in grid.parent.iterdir()],
        "no record": lambda: metrics.write_text(lines[0] + "}\n" + lines[2]),
        "all records": lambda: metrics.write_text('{"step": 2, "value": NaN}\n\xff\n'),
    }
    damaged[damage]()
    assert digest(mnist.main(config(folder, idx))) == done[1]
    said = capsys.readouterr().out
    assert read_json(folder / "summary.json")["step"] == 6
    named = {"cut grid": grid, "no grids": "done: look at ", "no record": f"line 2 of {metrics}"}
    assert str(named.get(damage, metrics)) in said
    assert "done: look at" in said


def test_penalty_and_critic_steps_change_the_run(idx, tmp_path):
    state = mnist.main(config(tmp_path / "run", idx, num_steps=2, n_critic=3, r1=10.0))
    assert (state.discriminator.step, state.generator.step) == (6, 2)
    assert all(record["r1"] > 0 for record in records(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        pytest.param({"gradient_penalty": 10.0}, None, marks=pytest.mark.slow),
        pytest.param({"dragan": 10.0}, None, marks=pytest.mark.slow),
        pytest.param({"clip_weights": 0.01}, 0.01, marks=pytest.mark.slow),
    ],
)
def test_each_limit_on_the_slope_reaches_the_step(changes, limit, idx, tmp_path):
    settings = config(tmp_path / "run", idx, num_steps=2, loss="wasserstein", r1=0.0, **changes)
    state = mnist.main(settings)
    (name,) = changes
    found = [record.get(name) for record in records(settings.workdir)]
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.discriminator.params))
    if limit is None:
        assert all(value > 0 for value in found)
        assert largest > 0.1
    else:
        assert found == [None]
        assert largest <= np.float32(limit)


def test_the_target_of_ada_reaches_the_step(tmp_path):
    settings = mnist.Config(workdir=tmp_path, augment="ada", augment_target=0.2, width=4)
    _, state, _ = mnist.build(settings)
    assert state.discriminator.memory["augmentation"]["r_t"] == np.float32(0.2)


@pytest.mark.parametrize("module", ["mnist", "sample"])
def test_help_documents_every_setting(module, monkeypatch, capsys):
    experiment = __import__(f"experiments.{module}", fromlist=["Config"])
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda settings: pytest.fail("it ran"), experiment.Config, experiment.__doc__)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert experiment.__doc__.strip().splitlines()[0] in text

    entries = {}  # flag -> the words that follow it, to the next flag
    for entry in re.split(r"\n\W*--", text)[1:]:
        name, *words = entry.split("╰")[0].replace("│", " ").split()
        entries[name.rstrip(",")] = " ".join(words).split("(default")[0].split("(required")[0]

    def check(kind, prefix=""):
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(field.type):
                check(field.type, f"{prefix}{field.name}.")
            else:
                flag = prefix + field.name.replace("_", "-")
                assert len(entries[flag].split()) >= 3, f"{flag} is not explained"

    check(experiment.Config)


def test_every_loss_the_flag_offers_exists():
    (field,) = (field for field in dataclasses.fields(mnist.Config) if field.name == "loss")
    assert set(typing.get_args(typing.get_args(field.type)[0])) == losses.LOSSES.keys()
