"""The conditional examples reach their oracles."""

import jax
import jax.numpy as jnp
import pytest

from examples import acgan, cyclegan, infogan, pix2pix
from gan_jax.metrics.two_sample import energy_test

pytestmark = pytest.mark.usefixtures("quick_compile")


def test_acgan_makes_the_class_it_is_told():
    assert acgan.main(steps=700) > 0.95


def test_infogan_shows_its_code():
    """The mutual information is within 10 % of the code's entropy."""
    assert infogan.main(steps=1000) > 0.9


@pytest.mark.slow
def test_pix2pix_fills_outlines_it_has_not_seen():
    """The error is a tenth of that of the best image that ignores the outline, the median."""
    x = pix2pix.batch(jax.random.key(3), 2000).x
    of_median = float(jnp.mean(jnp.abs(x - jnp.median(x, axis=0)[None])))
    assert 0.25 < of_median < 0.4
    assert pix2pix.main(steps=600) < of_median / 10


@pytest.mark.slow
def test_cyclegan_translates_both_ways():
    """The identity has no cycle error, but it makes points of the wrong domain."""
    x = cyclegan.batch(jax.random.key(3), 1000).x
    of_identity = float(energy_test(x["a"], x["b"], jax.random.key(4)).distance)
    assert of_identity > 0.2
    error, distance = cyclegan.main(steps=2000)
    assert error < 0.1
    assert distance < 0.1
