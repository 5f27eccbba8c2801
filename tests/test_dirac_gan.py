"""The Dirac-GAN experiment: its table, its folder, its flags."""

import json

import numpy as np
import pytest

from experiments import dirac_gan
from gan_jax.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dirac") / "run"
    return folder, dirac_gan.main(dirac_gan.Config(workdir=folder))


def test_what_converges_is_what_the_paper_says_converges(finished):
    """By a radius that has fallen a thousandfold in 500 steps, either way of stepping."""
    summary = finished[1]
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


def test_the_folder_holds_what_the_summary_names_and_is_kept(finished):
    folder, summary = finished
    assert json.loads((folder / "summary.json").read_text()) == summary
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {folder / name for name in summary["pictures"]} <= before.keys()
    assert dirac_gan.main(dirac_gan.Config(workdir=folder)) == summary
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(UserError, match=r"config.gamma: 1.0 there, 2.0 asked for"):
        dirac_gan.main(dirac_gan.Config(workdir=folder, gamma=2.0))


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
    with pytest.raises(UserError, match=message):
        dirac_gan.main(dirac_gan.Config(workdir=tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()
