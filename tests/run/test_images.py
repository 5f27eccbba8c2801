"""The check for samples that copy training images."""

import numpy as np
import pytest

from gan_jax.data.types import Dataset
from gan_jax.run import RunFolder, images, watch
from gan_jax.run.datasets import embedded


@pytest.fixture(scope="module")
def digits():
    return np.random.default_rng(0).permutation(embedded.read().x)[:2000]


def noisy(x):
    noise = np.random.default_rng(1).normal(0, 25, x.shape)
    return np.clip(x + noise, 0, 255).astype(np.uint8)


def test_copies_are_near_and_new_digits_are_not(digits):
    seen, new = digits[:1000], digits[1000:1064]
    assert images.nearness(noisy(seen[100:164]), seen) < watch.COPIED
    assert images.nearness(seen[100:164], seen) < 0.1
    assert 0.9 < images.nearness(new, seen) < 1.1


def test_large_images_are_thinned_out(digits):
    """Every pixel of a digit is repeated, so the pixels that are left are those of the digit."""
    large = digits[:700].repeat(2, axis=1).repeat(3, axis=2)
    assert images.nearness(large[:64], large) == images.nearness(digits[:64], digits[:700])


def test_nothing_is_said_of_few_or_equal_images(digits):
    assert images.nearness(digits[:64], digits[:100]) is None
    assert images.nearness(digits[:64], np.zeros_like(digits)) is None


@pytest.mark.parametrize(("ratio", "warned"), [(0.25, True), (0.9, False), (None, False)])
def test_a_run_that_copies_says_so(ratio, warned, digits, tmp_path):
    folder = RunFolder(tmp_path / "run")
    said = []
    dataset = Dataset(digits, None, "mnist", "embedded", digits[:0])
    with folder.visit():
        folder.samples.mkdir()
        images._finish(folder, 5, dataset, ratio, said.append)
    assert any("4.0 times nearer to training images" in line for line in said) == warned
    assert folder.summary()["nearness_to_training_images"] == ratio
