"""Conditional runs, as a user meets them: two classes of colours in a folder."""

import dataclasses
import json
import shutil
from operator import attrgetter

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_runs import config, shared_compilations, write_idx

from experiments import mnist, sample
from gan_jax.errors import UserError
from gan_jax.run import datasets, images
from gan_jax.run.commands import train
from gan_jax.run.warm_start import warm_start

COLOURS = {"blue": (40, 40, 220), "red": (220, 40, 40)}


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory):
    with shared_compilations(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Returns a folder with a subfolder of eight images for each colour."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(8):
            pixels = np.clip(colour + rng.integers(-30, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def settings(workdir, colours, **changes):
    data = datasets.Config(source="folder", dir=colours)
    changes = {"conditional": "projection", "width": 8, "data": data, **changes}
    return config(workdir, None, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, colours):
    """Returns the settings of a run on two colours."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    cadence = {"log_every": 50, "sample_every": 150, "checkpoint_every": 50, "evaluate_every": 0}
    rates = {"generator_lr": 5e-3, "discriminator_lr": 5e-3, "final_lr_share": 0.5}
    run = settings(folder, colours, num_steps=150, **rates, **cadence)
    mnist.main(run)
    return run


def draw(run, out, **options):
    """Returns samples and their labels."""
    sample.main(sample.Config(run=run.workdir, out=out, overwrite=True, **options))
    with np.load(out) as archive:
        return archive["x"], archive["label"]


def blueness(images):
    """Returns the mean of blue minus the mean of red."""
    return float(images[..., 2].mean()) - float(images[..., 0].mean())


def test_a_class_is_drawn_by_name_or_number_or_with_all_others(trained, tmp_path):
    x, label = draw(trained, tmp_path / "x.npz", num=3, label="1")
    assert label.tolist() == [1] * 3
    both, label = draw(trained, tmp_path / "x.npz", num=3, label="all")
    assert label.tolist() == [0] * 3 + [1] * 3
    np.testing.assert_array_equal(both[3:], x)
    assert blueness(both[:3]) - blueness(both[3:]) > 50
    with Image.open(tmp_path / "x.png") as picture:
        pixels = np.asarray(picture)
    small = pixels[:: pixels.shape[0] // 16, :: pixels.shape[1] // 24]
    shown = small.reshape(2, 8, 3, 8, 3).swapaxes(1, 2)
    np.testing.assert_array_equal(shown.reshape(6, 8, 8, 3), both)


def test_without_a_label_the_classes_take_turns(trained, tmp_path):
    _, label = draw(trained, tmp_path / "x.npz", num=5)
    assert label.tolist() == [0, 1, 0, 1, 0]
    with Image.open(tmp_path / "x.png") as picture:  # two rows of two
        assert picture.size[0] == picture.size[1]


def test_an_interpolation_goes_from_one_noise_to_another(trained, tmp_path):
    x, label = draw(trained, tmp_path / "x.npz", num=9, interpolate=True, label="red")
    assert label.tolist() == [1] * 9
    red = x.astype(int)
    steps = np.abs(np.diff(red, axis=0)).mean(axis=(1, 2, 3))
    assert 0 < steps.max() < 0.5 * np.abs(red[-1] - red[0]).mean()


def test_grids_show_a_class_in_each_row_from_the_same_noise(trained):
    with Image.open(trained.workdir / "samples" / "0000150.png") as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape[1] == 4 * pixels.shape[0]  # two rows of eight
    blue, red = np.split(pixels, 2)
    assert blueness(blue) - blueness(red) > 50
    # Both rows vary alike from column to column, because they have the same noise.
    green = [row[..., 1].reshape(len(row), 8, -1).mean(axis=(0, 2)) for row in (blue, red)]
    assert np.corrcoef(*green)[0, 1] > 0.5


def test_classes_of_other_names_are_refused(trained, colours, tmp_path):
    record = json.loads((trained.workdir / "config.json").read_text())
    assert record["data"]["classes"] == ["blue", "red"]
    others = shutil.copytree(colours, tmp_path / "others")
    (others / "red").rename(others / "scarlet")
    data = datasets.Config(source="folder", dir=others)
    with pytest.raises(UserError, match=r"data.classes: \['blue', 'red'\] there, \['blue', 'scar"):
        mnist.main(dataclasses.replace(trained, data=data))


def test_a_schedule_needs_the_same_number_of_steps(trained):
    with pytest.raises(UserError, match=r"config\.num_steps: 150 there, 200 asked for"):
        mnist.main(dataclasses.replace(trained, num_steps=200))


@pytest.mark.parametrize("label", ["green", "2", "-1", ""])
def test_a_wrong_label_names_the_classes(label, trained, tmp_path):
    with pytest.raises(UserError, match=r"is no class of .*: give all, or one of 0 blue, 1 red$"):
        draw(trained, tmp_path / "x.npz", label=label)


def test_a_run_without_classes_takes_no_label(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(
        train, "restore", lambda run, best: train.Restored(None, 0, None, None, (), False)
    )
    with pytest.raises(UserError, match="was trained without classes; train with --conditional"):
        draw(trained, tmp_path / "x.npz", label="7")


def test_labels_are_checked_before_training(tmp_path):
    data = datasets.Config(source="idx", dir=write_idx(tmp_path / "idx"))
    with pytest.raises(
        UserError, match=r"--conditional needs images with labels: .* no file train"
    ):
        mnist.main(settings(tmp_path / "run", None, data=data))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["concat", "reacgan"])
def test_the_other_forms_train(form, colours, tmp_path):
    state = mnist.main(settings(tmp_path / "run", colours, num_steps=2, conditional=form))
    assert int(state.generator.step) == 2


def test_a_run_begins_with_the_weights_of_another(trained, colours, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(images, "train", lambda gan, state, *_, **options: state)
    run = settings(tmp_path / "run", colours, init_from=trained.workdir)
    state, other = mnist.main(run), train.restore(trained.workdir).state
    assert f"started from step 150 of {trained.workdir}: 19 of 19 arrays" in capsys.readouterr().out
    for part in ("ema_params", "generator.params", "discriminator.params"):
        chex.assert_trees_all_equal(attrgetter(part)(state), attrgetter(part)(other))
    chex.assert_trees_all_equal(state.generator.opt_state[0], jnp.int32(0))

    monkeypatch.setattr(train, "saved_steps", lambda folder: [1])
    monkeypatch.setattr(train, "restore", None)  # a resumed run does not need the other one
    mnist.main(run)


def test_weights_that_do_not_fit_are_named(trained, colours):
    other, said = train.restore(trained.workdir).state, []
    plain = mnist.build(dataclasses.replace(trained, conditional="none"), None, (8, 8, 3))[1]
    warm = warm_start(plain, other, "a run", said.append)
    assert said[0] == "started from a run: 16 of 18 arrays were copied"
    kernel = ".generator.params['Dense_0']['kernel']"
    table = ".discriminator.params['Embed_0']['embedding']"
    assert said[1:3] == ["  not copied:", f"    {kernel} [4, 8] (there [6, 8])"]
    assert said[-2:] == ["  only in the other run:", f"    {table}"]
    np.testing.assert_array_equal(
        warm.ema_params["Dense_1"]["kernel"], other.ema_params["Dense_1"]["kernel"]
    )
    np.testing.assert_array_equal(
        warm.ema_params["Dense_0"]["kernel"], plain.ema_params["Dense_0"]["kernel"]
    )


def test_weights_that_the_other_run_lacks_are_named(trained):
    plain = mnist.build(dataclasses.replace(trained, conditional="none"), None, (8, 8, 3))[1]
    state, said = mnist.build(trained, None, (8, 8, 3), 2)[1], []
    warm = warm_start(state, plain, "a run", said.append)
    table = ".discriminator.params['Embed_0']['embedding']"
    assert f"    {table} [2, 8]" in said
    chex.assert_trees_all_equal(
        warm.discriminator.params["Embed_0"], state.discriminator.params["Embed_0"]
    )


def test_a_start_that_is_none_is_refused(trained, colours, tmp_path):
    (tmp_path / "empty").mkdir()
    run = settings(tmp_path / "run", colours, init_from=tmp_path / "empty")
    with pytest.raises(UserError, match=r"--init-from: .*empty is not a run's folder"):
        mnist.main(run)
    narrow = dataclasses.replace(run, init_from=trained.workdir, width=5, latent=3)
    with pytest.raises(UserError, match=r"--init-from: no weights of step 150 of .* fit"):
        mnist.main(narrow)
    assert not (tmp_path / "run").exists()
