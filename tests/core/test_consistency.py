"""The consistency penalty with known augmentations, and the default ones by enumeration."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gan_jax.augment.images import flip, shift, shift_and_flip
from gan_jax.penalties import consistency, real_consistency

REAL, FAKE = np.asarray(jax.random.normal(jax.random.key(0), (2, 6, 3)))
W = np.array([1.0, -2.0, 0.5], np.float32)


def linear(x):
    return x @ W + 7.0


def test_of_a_linear_critic_and_a_fixed_change():
    """T doubles x, so D(2x) - D(x) = w.x."""
    double = {"augment": lambda key, x: 2 * x}
    key = jax.random.key(1)
    on_real, on_fake = (REAL @ W) ** 2, (FAKE @ W) ** 2
    made = real_consistency(linear, REAL, FAKE, key, **double)
    np.testing.assert_allclose(made, on_real, rtol=1e-4, atol=1e-5)
    made = consistency(linear, REAL, FAKE, key, **double)
    np.testing.assert_allclose(made, on_real + on_fake, rtol=1e-4, atol=1e-5)


def test_each_example_is_changed_by_a_draw_of_its_own():
    """T adds a random number u and the critic returns the number, so the penalty is u^2."""
    zeros = jnp.zeros((200, 1))

    def penalty(function, fake_matters=1.0):
        def critic(x):
            return x[:, 0]

        def add(key, x):
            return x + jax.random.uniform(key)

        return function(critic, zeros, fake_matters * zeros, jax.random.key(1), augment=add)

    once = np.sqrt(penalty(real_consistency))
    assert len(np.unique(once)) == 200
    assert stats.kstest(once, "uniform").pvalue > 0.01
    # If real and fake were changed alike, the sum would be twice a square.
    both = penalty(consistency)
    assert np.mean(both) == pytest.approx(2 / 3, abs=0.1)
    assert np.var(both) == pytest.approx(2 * 4 / 45, rel=0.4)  # 4 * 4 / 45 if alike


def test_images_are_shifted_by_default_and_other_data_refused():
    image = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))

    def critic(x):
        return jnp.sum(x * jnp.arange(64.0).reshape(1, 8, 8, 1), axis=(1, 2, 3))

    made = consistency(critic, image, image, jax.random.key(0))
    explicit = consistency(critic, image, image, jax.random.key(0), augment=shift_and_flip)
    np.testing.assert_array_equal(made, explicit)
    assert (made > 1e-3).all()
    with pytest.raises(ValueError, match=r"one image \[H, W, C\], got shape \(3,\): .* your own"):
        consistency(linear, REAL, FAKE, jax.random.key(0))


def windows(x, rows, columns):
    """Returns all shifts by up to `rows` and `columns` with mirrored edges, by slicing in NumPy."""
    padded = np.pad(x, [(rows, rows), (columns, columns), (0, 0)], mode="reflect")
    height, width = x.shape[:2]
    return [
        padded[i : i + height, j : j + width]
        for i in range(2 * rows + 1)
        for j in range(2 * columns + 1)
    ]


IMAGE = np.random.default_rng(0).normal(size=(8, 16, 2)).astype(np.float32)
SHIFTED = windows(IMAGE, 1, 2)  # an eighth of each side

CASES = {
    "shift": (shift, SHIFTED),
    "shift by nothing": (partial(shift, share=0.0), [IMAGE]),
    "flip": (flip, [IMAGE, IMAGE[:, ::-1]]),
    "shift_and_flip": (shift_and_flip, [y for x in SHIFTED for y in (x, x[:, ::-1])]),
}


@pytest.mark.parametrize("name", CASES)
def test_every_outcome_is_as_likely_as_the_others_and_there_are_no_more(name):
    augment, outcomes = CASES[name]
    keys = jax.random.split(jax.random.key(1), 100 * len(outcomes))
    made = np.asarray(jax.jit(jax.vmap(augment, in_axes=(0, None)))(keys, IMAGE))
    places = {outcome.tobytes(): number for number, outcome in enumerate(outcomes)}
    assert len(places) == len(outcomes)
    counts = np.bincount([places[x.tobytes()] for x in made], minlength=len(outcomes))
    assert len(outcomes) == 1 or stats.chisquare(counts).pvalue > 0.01
