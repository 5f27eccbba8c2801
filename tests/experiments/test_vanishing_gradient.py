"""Tests of the gradients against NumPy and finite differences, and of a small run."""

import jax
import numpy as np
import pytest
from small_runs import assert_kept, assert_refused, compiled_in_a_hurry

from experiments import vanishing_gradient
from experiments.vanishing_gradient import Config, bound, main, measure
from gan_jax.models.mlp import mlp

pytestmark = pytest.mark.slow

TINY = {"epochs": (1,), "num_steps": 150, "width": 64, "num_minibatches": 3, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the settings and the summary of a short run, compiled in a hurry."""
    config = Config(tmp_path_factory.mktemp("run") / "made", **TINY)
    with compiled_in_a_hurry():
        return config, main(config)


@pytest.fixture
def players(quick_compile):
    """Returns a small GAN in the plane, theta, psi and z [3, 4, 2]."""
    gan = mlp((2,), latent=2, width=5)
    keys = jax.random.split(jax.random.key(0), 3)
    z = gan.prior(keys[0], 12)
    theta, _ = gan.generator.init(keys[1], z)
    psi, _ = gan.discriminator.init(keys[2], z)
    return gan, theta, jax.tree.map(lambda leaf: 2 * leaf, psi), z.reshape(3, 4, 2)


def layers(params):
    return [
        (
            np.asarray(params[f"Dense_{i}"]["kernel"], float),
            np.asarray(params[f"Dense_{i}"]["bias"]),
        )
        for i in range(len(params))
    ]


def forward(params, x):
    """Returns the output of the library's perceptron, without its last tanh, in float64."""
    *hidden, last = layers(params)
    for kernel, bias in hidden:
        x = x @ kernel + bias
        x = np.where(x > 0, x, 0.2 * x)
    return x @ last[0] + last[1]


def differences(function, params):
    """Returns central differences of `function(params)` [...] in each parameter: [P, ...]."""
    leaves, tree = jax.tree.flatten(params)
    flat = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def at(vector):
        parts = np.split(vector, ends)
        shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        return function(jax.tree.unflatten(tree, shaped))

    step = 1e-6
    return np.stack(
        [(at(flat + step * e) - at(flat - step * e)) / (2 * step) for e in np.eye(flat.size)]
    )


def fakes(theta, z):
    return np.tanh(forward(theta, z))


def probability(psi, x):
    return 1 / (1 + np.exp(-forward(psi, x)[..., 0]))


def test_measure(players):
    gan, theta, psi, z = players
    made = measure(gan, theta, psi, z)
    noise = np.asarray(z, np.float64)

    def losses(theta):
        d = probability(psi, fakes(theta, noise))
        return np.stack([np.log(1 - d).mean(axis=1), -np.log(d).mean(axis=1)])  # [2, M]

    saturating, other = differences(losses, theta).transpose(1, 2, 0)  # each [M, P]
    np.testing.assert_allclose(
        made["saturating"], np.linalg.norm(saturating.mean(axis=0)), rtol=1e-4
    )
    norm = np.linalg.norm(other.mean(axis=0))
    variance = other.var(axis=0, ddof=1).sum()
    np.testing.assert_allclose(made["non_saturating"], norm, rtol=1e-4)
    np.testing.assert_allclose(made["variance"], variance, rtol=1e-3)
    np.testing.assert_allclose(made["relative_deviation"], np.sqrt(variance) / norm, rtol=1e-3)


def test_bound(players):
    """The bound agrees with D's slope and M by finite differences, with M in the spectral norm."""
    gan, theta, psi, z = players
    psi = jax.tree.map(lambda leaf: leaf / 4, psi)
    flat = z.reshape(12, 2)
    made = bound(gan, theta, psi, flat)
    noise = np.asarray(flat, np.float64)
    x, step = fakes(theta, noise), 1e-6
    slope = [
        (probability(psi, x + step * e) - probability(psi, x - step * e)) / (2 * step)
        for e in np.eye(2)
    ]
    eps = (probability(psi, x) + np.linalg.norm(slope, axis=0)).max()
    jacobians = differences(lambda theta: fakes(theta, noise), theta).transpose(1, 2, 0)
    factor = np.sqrt(np.mean([np.linalg.norm(j, 2) ** 2 for j in jacobians]))
    assert eps < 1
    np.testing.assert_allclose(made["eps"], eps, rtol=1e-4)
    np.testing.assert_allclose(made["bound"], factor * eps / (1 - eps), rtol=1e-3)
    assert 0 < made["norm"] <= made["bound"]


def test_there_is_no_bound_for_a_discriminator_far_from_the_best(players):
    gan, theta, psi, z = players
    sure = jax.tree.map(lambda leaf: leaf + 1.0, psi)
    made = bound(gan, theta, sure, z.reshape(12, 2))
    assert made["eps"] >= 1
    assert np.isinf(made["bound"])


def test_saturating_vanishes_and_non_saturating_does_not(run):
    figures = run[1]["digits_by_epochs_of_G"]["1"]
    saturating, other = figures["saturating"], figures["non_saturating"]
    assert figures["orders_of_magnitude_saturating_fell"] > 1.5
    assert figures["orders_of_magnitude_saturating_fell"] == pytest.approx(
        np.log10(saturating["start"] / saturating["end"])
    )
    assert other["end"] > other["start"]
    assert other["end"] > 100 * saturating["end"]
    assert figures["variance"]["end"] > figures["variance"]["start"]


def test_near_the_best_discriminator_the_gradient_dies_under_its_bound(run):
    plane = run[1]["plane"]
    assert plane["bound_respected"] is True
    assert plane["measured_where_eps_below_1"] > 5
    assert plane["smallest_bound_over_norm"] >= 1
    assert plane["eps"]["end"] < 0.2 * plane["eps"]["start"]
    assert plane["norm"]["end"] < 0.1 * plane["norm"]["start"]


def test_the_folder_is_kept(run):
    assert_kept(vanishing_gradient, *run, seed=1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", (), "--epochs must be above 0 and rise"),
        ("epochs", (0, 1), "--epochs must be above 0 and rise"),
        ("epochs", (5, 1), r"--epochs must be above 0 and rise.*got \(5, 1\)"),
        ("num_steps", 0, "--num-steps must be at least 10"),
        ("num_steps", 25, "--num-steps must be a multiple of 10, got 25"),
        ("width", 0, "--width must be at least 1"),
        ("batch_size", 5001, "--batch-size must be at most 5000, the digits, got 5001"),
        ("num_minibatches", 1, "--num-minibatches must be at least 2"),
        ("learning_rate", float("nan"), "--learning-rate must be above 0, got nan"),
        ("seed", -1, "--seed must be at least 0"),
    ],
)
def test_bad_flags(tmp_path, name, value, message):
    config = Config(tmp_path / "run", **{**TINY, name: value})
    assert_refused(vanishing_gradient, config, message)
