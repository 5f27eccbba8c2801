"""Tests of `experiments.gaussian_1d`: its figures against closed forms, and a small run."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import integrate, stats
from small_runs import assert_kept, assert_refused, compiled_in_a_hurry

from experiments import gaussian_1d
from gan_jax import GAN, Network

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compile")]

SMALL = gaussian_1d.Config(
    n_critic=(1, 4),
    num_updates=2000,
    warmup=30,
    seeds=2,
    batch_size=128,
    width=8,
    frames=1,
    generator_lr=(5e-4, 2e-3),
)
LOG_4 = np.log(4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the settings and the summary of a small run, compiled in a hurry."""
    config = dataclasses.replace(SMALL, workdir=tmp_path_factory.mktemp("g") / "run")
    with compiled_in_a_hurry():
        return config, gaussian_1d.main(config)


def by_hand(generate, logit):
    """Returns the GAN and the state of a G and a D given as functions of numbers."""
    networks = [
        Network(lambda key, x: ({}, {}), lambda params, state, x, *, train, fn=fn: (fn(x), state))
        for fn in (generate, lambda x: logit(x[:, 0]))
    ]
    player = SimpleNamespace(params={})
    return GAN(*networks, gaussian_1d.PRIOR.sample), SimpleNamespace(
        generator=player, discriminator=player
    )


def divergence(p, q, low, high):
    """Returns JSD by adaptive quadrature of its definition, in float64."""

    def integrand(x):
        a, b = p(x), q(x)
        m = (a + b) / 2
        return sum(d / 2 * np.log(d / m) for d in (a, b) if d > 0)

    return integrate.quad(integrand, low, high, limit=500, points=[1.0])[0]


DATA = stats.norm(1.0, 0.5).pdf


@pytest.mark.parametrize("shift", [-2.0, 0.0, 0.3])
def test_figures_of_a_shifted_gaussian_with_its_best_discriminator(shift):
    """G(z) = 1 + shift + z / 2: logit D* = ((x - 1 - shift)^2 - (x - 1)^2) / (2 / 4)."""
    gan, state = by_hand(
        lambda z: 1 + shift + z / 2, lambda x: 2 * ((x - 1 - shift) ** 2 - (x - 1) ** 2)
    )
    figures, drawn = gaussian_1d.examine(gan, state)
    expected = divergence(DATA, stats.norm(1 + shift, 0.5).pdf, -6, 8)
    np.testing.assert_allclose(figures["jsd"], expected, atol=2e-6)
    np.testing.assert_allclose(figures["value"], 2 * expected - LOG_4, atol=5e-6)
    np.testing.assert_allclose(figures["p_g_mass"], 1.0, atol=1e-5)
    near = np.abs(drawn["x"] - 1) < 2  # z is searched only up to |z| = 8
    np.testing.assert_allclose(drawn["optimal"][near], drawn["discriminator"][near], atol=1e-3)
    # |D - 1/2| is largest at the ends of the range where (p + q) / 2 is over 1% of the peak.
    x = np.linspace(-5, 7, 601)
    counted = (DATA(x) + DATA(x - shift)) / 2 > 0.01 * DATA(1.0)
    d = DATA(x) / (DATA(x) + DATA(x - shift) + 1e-300)
    np.testing.assert_allclose(figures["off_half"], np.abs(d - 0.5)[counted].max(), atol=1e-3)


def test_figures_of_a_folded_generator():
    """G(z) = z^2 - 1/2: a shifted chi-squared density, infinite at -1/2 and 0 below."""
    gan, state = by_hand(lambda z: z**2 - 0.5, lambda x: 0 * x + 0.3)
    figures, _ = gaussian_1d.examine(gan, state)
    below = stats.norm(1, 0.5).cdf(-0.5) * np.log(2) / 2

    def of_root(r):  # x = r^2 - 1/2 and dx = 2 r dr remove the singularity
        p, q_dx = DATA(r**2 - 0.5), 2 * stats.norm.pdf(r)
        p_dx = p * 2 * r
        m = (p_dx + q_dx) / 2
        return sum(d / 2 * np.log(d / m) for d in (p_dx, q_dx) if d > 0)

    expected = below + integrate.quad(of_root, 0, 9, limit=500)[0]
    np.testing.assert_allclose(figures["jsd"], expected, atol=2e-3)
    sure = -np.logaddexp(0, -0.3), -np.logaddexp(0, 0.3)
    np.testing.assert_allclose(figures["value"], sum(sure), atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_density_of_a_generator_is_that_of_its_samples(seed):
    """The density agrees with a histogram of 200,000 samples; G has large random weights."""
    gan = gaussian_1d.build(8)
    params, _ = gan.generator.init(jax.random.key(seed), jnp.zeros((1, 1)))
    params = jax.tree.map(lambda leaf: 2 * leaf, params)
    z = gan.prior(jax.random.key(7), 200_000)
    samples = np.asarray(gaussian_1d.generate(gan, params, z))[:, 0]
    edges = np.quantile(samples, np.linspace(0.02, 0.98, 13))
    widths = np.diff(edges)[:, None]
    middles = edges[:-1, None] + widths * (np.arange(100) + 0.5) / 100
    x = jnp.asarray(middles.ravel(), jnp.float32)
    density = np.exp(gaussian_1d.log_p_g(gan, params, x)).reshape(12, 100)
    # Each bin has 0.08 of the mass. The tolerance is 5 standard errors of a count, and covers the
    # error of the midpoint rule next to a fold.
    np.testing.assert_allclose(density.mean(1) * widths[:, 0], 0.08, atol=0.004)


def test_training_lowers_the_divergence(finished):
    config, summary = finished
    gan = gaussian_1d.build(config.width)
    for n_critic in config.n_critic:
        states, *_ = gaussian_1d.play(config, gan, n_critic, 1)
        first, _ = jax.lax.map(partial(gaussian_1d.examine, gan), states)
        assert (np.array(summary[f"n_critic_{n_critic}"]["jsd"]["each"]) < first["jsd"] / 3).all()


def test_figures_keep_to_the_theory(finished):
    config, summary = finished
    assert summary["optimum"] == pytest.approx(-LOG_4)
    for n_critic in config.n_critic:
        figures = summary[f"n_critic_{n_critic}"]
        updates = figures["generator_updates"]
        assert updates == 2000 // (n_critic + 1)
        assert figures["discriminator_updates"] == 30 + n_critic * updates
        jsd, value = (np.array(figures[name]["each"]) for name in ("jsd", "value"))
        assert len(jsd) == config.seeds
        assert (jsd > 0).all()
        assert (value <= 2 * jsd - LOG_4 + 1e-6).all()
        np.testing.assert_allclose(figures["p_g_mass"]["each"], 1.0, atol=1e-3)
        assert figures["jsd"]["max"] == jsd.max()
        assert figures["jsd"]["mean"] == pytest.approx(jsd.mean())
        assert figures["jsd"]["std"] == pytest.approx(jsd.std())


def test_the_folder_holds_the_pictures(finished):
    config, summary = finished
    assert len(summary["pictures"]) == 6
    for name in summary["pictures"]:
        with Image.open(config.workdir / name) as picture:
            assert min(picture.size) > 100
    assert len(list((config.workdir / "samples").glob("*.png"))) == 2 * (config.frames + 2)
    with Image.open(config.workdir / "n_critic_4.gif") as gif:
        assert gif.n_frames == config.frames + 2


def test_the_folder_is_kept(finished):
    assert_kept(gaussian_1d, *finished, width=9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"warmup": 0}, "--warmup must be at least 1, got 0"),
        ({"generator_lr": (1e-4, 0.0)}, r"--generator-lr must be above 0 .*got \(0.0001, 0.0\)"),
        ({"generator_lr": (1e-4,)}, r"--generator-lr must .* each of --n-critic \(1, 4\), got"),
        ({"discriminator_lr": np.inf}, "--discriminator-lr must be above 0, got inf"),
        ({"n_critic": ()}, "--n-critic must be different numbers of at least 1"),
        ({"n_critic": (1, 0)}, "--n-critic must be different numbers of at least 1"),
        ({"n_critic": (2, 2)}, "--n-critic must be different numbers of at least 1"),
        ({"num_updates": 4}, r"--num-updates must be at least .* = 5, .* got 4: raise it"),
    ],
)
def test_a_bad_flag_is_refused_before_any_work(tmp_path, settings, message):
    config = dataclasses.replace(SMALL, workdir=tmp_path / "run", **settings)
    assert_refused(gaussian_1d, config, message)
