"""Tests of the trained discriminator against densities, D* and integrals by SciPy."""

import jax
import numpy as np
import pytest
from scipy import integrate, stats
from small_runs import assert_kept, assert_refused, compiled_in_a_hurry

from experiments import optimal_discriminator
from experiments.optimal_discriminator import CASES, Config, exact, main, sampled

pytestmark = pytest.mark.usefixtures("quick_compile")

TINY = {"num_steps": 300, "batch_size": 256, "record_every": 20, "num_samples": 20_000}
TRAINED = ("shifted Gaussians", "three outcomes")


def normals(*parts):
    """Returns the density of a mixture with parts (weight, mean [D], deviation), at x [N, D]."""

    def density(x):
        return sum(w * np.prod(stats.norm.pdf(x, m, s), axis=1) for w, m, s in parts)

    return density


DENSITIES = {
    "shifted Gaussians": (normals((1, [0], 1)), normals((1, [1], 1))),
    "Gaussians of two widths": (normals((1, [0], 1)), normals((1, [0], 2))),
    "mixtures on the line": (
        normals((0.3, [-2], 0.6), (0.7, [2], 0.6)),
        normals((1 / 3, [-1], 0.8), (1 / 3, [1], 0.5), (1 / 3, [3], 0.7)),
    ),
    "mixtures in the plane": (
        normals((0.5, [-1.2, 0], 0.8), (0.5, [1.2, 0], 0.8)),
        normals((0.4, [0, -1.2], 0.8), (0.6, [0, 1.2], 0.8)),
    ),
}
"""p and q of each case on the line or in the plane, defined independently of the experiment."""


def untrained(case):
    """Returns parameters of D that are not 0; a table of logits would start at 0."""
    params, _ = case.discriminator.init(jax.random.key(3), case.nodes()[0][:1])
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * np.cos(np.arange(leaf.size)).reshape(leaf.shape), params
    )


@pytest.mark.parametrize("name", DENSITIES)
def test_exact_figures(name):
    """V, the bound and |D - D*| of a random D agree with those on another grid by another rule."""
    case, (p, q) = CASES[name], DENSITIES[name]
    params = untrained(case)
    figures, _ = exact(case, params)
    axis = np.linspace(-12, 12.5, 301 if len(case.limits) == 2 else 4001)
    grids = np.meshgrid(*[axis] * len(case.limits), indexing="ij")
    x = np.stack([grid.ravel() for grid in grids], axis=1)
    d = 1 / (1 + np.exp(-np.asarray(case.logits(params, x.astype(np.float32)), np.float64)))
    at_p, at_q = np.maximum(p(x), 1e-200), np.maximum(q(x), 1e-200)
    best = at_p / (at_p + at_q)

    def value(d):
        integral = (at_p * np.log(d) + at_q * np.log(1 - d)).reshape(grids[0].shape)
        for _ in case.limits:
            integral = integrate.simpson(integral, x=axis)
        return integral

    assert figures["exact_value"] == pytest.approx(value(d), abs=1e-5)
    # Far from q, 1 - D* rounds to 0; there p log D* + q log(1 - D*) is below 1e-15.
    assert figures["bound"] == pytest.approx(value(np.clip(best, 1e-16, 1 - 1e-16)), abs=1e-5)
    inside = at_p + at_q > 0.01 * (at_p + at_q).max()
    assert figures["max_error"] == pytest.approx(np.abs(d - best)[inside].max(), abs=0.01)
    assert figures["mass_compared"] > 0.99


@pytest.mark.parametrize("name", CASES)
def test_samples_follow_the_densities_that_are_summed(name):
    case = CASES[name]
    params = untrained(case)
    drawn = sampled(case, params, 20_000, jax.random.key(0))
    assert 0 < drawn["standard_error"] < 0.02
    distance = drawn["sampled_value"] - exact(case, params)[0]["exact_value"]
    assert abs(distance) < 4 * drawn["standard_error"] + 1e-6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Yields the settings and the summary of a short run of two cases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimal_discriminator, "CASES", {name: CASES[name] for name in TRAINED})
        config = Config(tmp_path_factory.mktemp("run") / "made", **TINY)
        with compiled_in_a_hurry():
            yield config, main(config)


@pytest.mark.parametrize(
    ("name", "bound", "error"),
    [
        ("shifted Gaussians", 2 * 0.1114215 - np.log(4), 0.05),
        ("three outcomes", -1.2534657, 0.05),
    ],
)
def test_training_approaches_the_bound_from_below(run, name, bound, error):
    figures = run[1]["cases"][name]
    assert figures["bound"] == pytest.approx(bound, abs=2e-7)
    assert 0 <= figures["gap"] < 0.005
    assert figures["smallest_gap_in_training"] >= -1e-9
    assert figures["max_error"] < error
    assert figures["sampled_value"] < figures["bound"] + 4 * figures["standard_error"]


def test_three_outcomes_have_the_optimal_probabilities():
    _, drawn = exact(CASES["three outcomes"], np.log([5 / 2, 1, 2 / 5]))
    np.testing.assert_allclose(drawn["D*"], [5 / 7, 1 / 2, 2 / 7], atol=1e-7)
    np.testing.assert_allclose(drawn["D"], drawn["D*"], atol=1e-7)


def test_the_folder_is_kept(run):
    assert_kept(optimal_discriminator, *run, seed=1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_steps", 0, "--num-steps must be at least 1"),
        ("batch_size", -1, "--batch-size must be at least 1"),
        ("record_every", 0, "--record-every must be at least 1"),
        ("record_every", 40, r"--num-steps must be a multiple of --record-every \(40\), got 300"),
        ("num_samples", 0, "--num-samples must be at least 1"),
        ("learning_rate", float("nan"), "--learning-rate must be above 0, got nan"),
        ("learning_rate", float("inf"), "--learning-rate must be above 0"),
        ("seed", -1, "--seed must be at least 0, got -1"),
        ("seed", 2**32, r"--seed must be below 2\*\*32, got"),
    ],
)
def test_bad_flags(tmp_path, name, value, message):
    config = Config(tmp_path / "run", **{**TINY, name: value})
    assert_refused(optimal_discriminator, config, message)
