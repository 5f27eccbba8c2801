"""`experiments.sample`: images from a run's newest checkpoint."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from small_runs import config, shared_compilations, snapshot, write_idx

from experiments import mnist, sample


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory):
    with shared_compilations(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns the settings of a run of 4 steps and its last state."""
    folder = tmp_path_factory.mktemp("run")
    settings = config(folder / "run", write_idx(folder / "idx"), num_steps=4)
    return settings, mnist.main(settings)


@pytest.fixture
def draw(trained, tmp_path):
    """Returns a function that draws samples into a new archive and returns them."""
    outs = (tmp_path / f"{i}.npz" for i in range(100))

    def draw(**options):
        out = next(outs)
        returned = sample.main(sample.Config(run=trained[0].workdir, out=out, **options))
        with np.load(out) as archive:
            assert archive.files == ["x"]
            x = archive["x"]
        np.testing.assert_array_equal(returned, x)
        return x

    return draw


def test_samples_are_what_the_generator_makes_of_the_averaged_weights(draw, trained):
    settings, state = trained
    x = draw(num=7)
    assert (x.shape, x.dtype) == ((7, 8, 8, 1), np.uint8)
    gan, _, _ = mnist.build(settings, None, (8, 8, 1))
    for ema in (True, False):
        params = state.ema_params if ema else state.generator.params
        key_z = jax.random.split(jax.random.fold_in(jax.random.key(3), 0))[0]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key_z, np.arange(5))
        z = jax.vmap(lambda key: gan.prior(key, 1)[0])(keys)
        made, _ = gan.generator.apply(params, {}, z, train=False)
        pixels = np.clip((np.asarray(made) + 1) * 127.5, 0, 255)
        np.testing.assert_allclose(draw(num=5, seed=3, ema=ema), pixels, atol=0.51)


def test_the_same_seed_gives_the_same_bits_and_another_gives_others(draw):
    first = draw(num=20, seed=1)
    np.testing.assert_array_equal(draw(num=20, seed=1), first)
    assert (draw(num=20, seed=2) != first).any()


def test_a_larger_number_only_adds(draw):
    many = draw(num=300)
    np.testing.assert_array_equal(many[:10], draw(num=10))
    assert len({image.tobytes() for image in many}) > 290


def test_a_picture_of_the_first_hundred_goes_beside(draw, tmp_path):
    x = draw(num=120)
    with Image.open(tmp_path / "0.png") as picture:
        pixels = np.asarray(picture)
    factor = pixels.shape[0] // 80
    small = pixels[::factor, ::factor].reshape(10, 8, 10, 8).swapaxes(1, 2)
    np.testing.assert_array_equal(small.reshape(100, 8, 8, 1), x[:100])


def test_overwrite_replaces_both_files(draw, trained, tmp_path):
    draw(num=3)
    options = {"run": trained[0].workdir, "out": tmp_path / "0.npz"}
    sample.main(sample.Config(**options, num=9, overwrite=True))
    with np.load(tmp_path / "0.npz") as archive:
        assert len(archive["x"]) == 9


def test_sampling_changes_nothing_in_the_run(draw, trained):
    before = snapshot(trained[0].workdir)
    draw(num=3)
    assert snapshot(trained[0].workdir) == before


def test_a_corrupt_newest_checkpoint_is_passed_over_aloud(trained, tmp_path, capsys):
    run = shutil.copytree(trained[0].workdir, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "4")
    (run / "checkpoints" / "4").mkdir()
    sample.main(sample.Config(run=run, out=tmp_path / "x.npz", num=3))
    printed = capsys.readouterr()
    assert "checkpoint 4 cannot be read" in printed.out
    assert "3 samples of step 2" in printed.out
    assert "Traceback" not in printed.err
