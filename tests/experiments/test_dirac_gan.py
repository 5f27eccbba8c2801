"""Tests of the Dirac-GAN experiment: its table, its folder and its flags."""

import numpy as np
import pytest
from small_runs import assert_kept, assert_refused, compiled_in_a_hurry

from experiments import dirac_gan


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = dirac_gan.Config(workdir=tmp_path_factory.mktemp("dirac") / "run")
    with compiled_in_a_hurry():
        return config, dirac_gan.main(config)


def test_what_converges_is_what_the_paper_says_converges(finished):
    """A method converges if its radius falls a thousandfold in 500 steps of either kind."""
    summary = finished[1]
    assert summary["methods"].keys() == dirac_gan.METHODS.keys()
    for name, row in summary["methods"].items():
        for radius in row["radius_at_end"].values():
            assert (radius < 1e-3 * summary["radius_at_start"]) == row["converges_in_the_paper"]
        if row["eigenvalues"] is not None:
            assert (row["verdict"] == "converges") == row["converges_in_the_paper"], name
            np.testing.assert_allclose(row["eigenvalues"], row["closed_form"], atol=1e-6)


def test_the_unregularised_gan_grows_at_the_known_rate(finished):
    """WGAN's field is linear: each simultaneous step multiplies the radius by sqrt(1 + h^2)."""
    row = finished[1]["methods"]["wasserstein"]["radius_at_end"]
    np.testing.assert_allclose(row["simultaneous"], np.sqrt(2) * 1.01**250, rtol=1e-9)
    assert 1 < row["alternating"] < 2


def test_the_folder_is_kept(finished):
    assert_kept(dirac_gan, *finished, gamma=2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "--num-steps must be at least 1, got 0"),
        ({"gamma": -1.0}, "--gamma must be at least 0, got -1.0"),
        ({"sigma": float("nan")}, "--sigma must be at least 0, got nan"),
        ({"step_size": 0.0}, "--step-size must be above 0, got 0.0"),
        ({"theta": 0.0, "psi": 0.0}, "both 0 is the equilibrium"),
    ],
)
def test_bad_flags(settings, message, tmp_path):
    config = dirac_gan.Config(workdir=tmp_path / "run", **settings)
    assert_refused(dirac_gan, config, message)
