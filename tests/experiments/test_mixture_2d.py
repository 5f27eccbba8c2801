"""Tests of the experiment on mixtures, with small runs: its files, figures and flags."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_runs import assert_kept, assert_refused, compiled_in_a_hurry

from experiments import many, mixture_2d
from experiments.mixture_2d import Recipe
from gan_jax import sample
from gan_jax.data.synthetic import DISTRIBUTIONS
from gan_jax.metrics.modes import expected_reverse_kl
from gan_jax.run import Look, RunFolder

SMALL = mixture_2d.Config(
    num_steps=20,
    batch_size=8,
    width=4,
    generator_depth=1,
    discriminator_depth=1,
    seeds=2,
    num_samples=50,
    frames=2,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = dataclasses.replace(SMALL, workdir=tmp_path_factory.mktemp("mixture") / "run")
    with compiled_in_a_hurry():
        return config, mixture_2d.main(config)


def test_the_folder_holds_what_the_summary_names(finished):
    folder, summary = finished[0].workdir, finished[1]
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["num_modes"] == 8
    assert summary["updates"] == {"generator": 20, "discriminator": 20}
    assert summary["pictures"] == ["training.gif", "seeds.png"]
    for name in summary["pictures"]:
        with Image.open(folder / name) as picture:
            assert getattr(picture, "n_frames", 1) == (3 if name.endswith("gif") else 1)


def test_a_perfect_sampler_stands_beside_every_seed(finished):
    figures = finished[1]["figures"]
    assert all(len(values) == 2 for found in figures.values() for values in found.values())
    assert figures["gan"].keys() == figures["perfect_sampler"].keys()
    # Hardly one of 50 untrained samples is within 0.03 of a mode; about 49 of 50 perfect ones are.
    assert max(figures["gan"]["high_quality"]) < 0.2
    assert min(figures["perfect_sampler"]["high_quality"]) > 0.85


def test_the_folder_is_kept(finished):
    assert_kept(mixture_2d, *finished, loss="hinge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"penalty": ("r3",)}, "--penalty r3 is none of r1, r2"),
        ({"num_steps": 21}, r"--num-steps must be a multiple of --frames \(2\), got 21"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"final_penalty_share": 0.0}, "--final-penalty-share must be above 0"),
        ({"final_penalty_share": 2.0}, r"--final-penalty-share must be in \[0, 1\], got 2.0"),
        ({"penalty": ("r1", "r1")}, "--penalty must name each once, got r1 r1"),
        ({"b2": 1.0}, "--b2 must be in"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"unroll": -1}, "--unroll must be at least 0"),
        ({"draws": 0}, "--draws must be at least 1"),
        ({"final_lr_share": 1.5}, r"--final-lr-share must be in \[0, 1\], got 1.5"),
        (
            {"lr_decay": "exponential", "generator_final_lr_share": 0.0},
            "--generator-final-lr-share must be above 0",
        ),
        ({"signs": -1}, "--signs must be at least 0"),
        ({"discriminator_width": 0}, "--discriminator-width must be at least 1"),
    ],
)
def test_bad_flags(change, message, tmp_path):
    config = dataclasses.replace(SMALL, workdir=tmp_path / "run", **change)
    assert_refused(mixture_2d, config, message)


def test_the_recipe_reaches_the_networks(quick_compile):
    recipe = dataclasses.replace(RECIPE, signs=3, fourier=5, discriminator_width=6)
    game = mixture_2d.build(recipe, mixture_2d.data(recipe)[0])
    z = np.asarray(game.gan.prior(jax.random.key(0), 50))
    assert z.shape == (50, 2 + 3)
    assert set(np.abs(z[:, 2:]).ravel()) == {4.0}
    state = jax.eval_shape(game.state, jax.random.key(0))
    first = [leaf.shape for leaf in jax.tree.leaves(state.discriminator.params) if leaf.ndim == 2]
    assert (2 + 2 * 5, 6) in first


def test_every_distribution_the_flag_offers_exists():
    (field,) = (field for field in dataclasses.fields(Recipe) if field.name == "data")
    assert set(field.type.__args__) == DISTRIBUTIONS.keys()


RECIPE = Recipe(
    num_steps=4, batch_size=8, width=4, generator_depth=1, discriminator_depth=1, seeds=2
)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"data": "grid", "penalty": ()}, marks=pytest.mark.slow),
        {"penalty": (), "n_critic": 2},
        pytest.param(
            {"loss": "relativistic", "penalty": ("r1", "r2"), "pack": 2}, marks=pytest.mark.slow
        ),
        pytest.param({"unroll": 2}, marks=pytest.mark.slow),
        pytest.param({"data": "spiral", "penalty": ("lecam",)}, marks=pytest.mark.slow),
    ],
)
def test_seeds_in_one_program_are_the_seeds_alone(change, quick_compile, tmp_path):
    """For each kind of game, two GANs trained at once end where each ends when trained alone."""
    recipe = dataclasses.replace(RECIPE, **change)
    game = mixture_2d.build(recipe, mixture_2d.data(recipe)[0])
    seen = []
    look = Look(
        2, lambda states: states.generator.step, lambda step, made: seen.append((step, made[1]))
    )
    folder = RunFolder(tmp_path / "run", {})
    with folder.visit():
        together = many.train(recipe, game, folder, [look])
    assert seen == [(0, 0), (2, 2), (4, 4)]
    step = jax.jit(game.step)
    for number in range(recipe.seeds):
        state = jax.jit(game.state)(jax.random.key(recipe.seed + number))
        for _ in range(recipe.num_steps):
            state, _ = step(state)
        assert state.generator.step == recipe.num_steps
        assert state.discriminator.step == recipe.num_steps * recipe.n_critic
        for one, both in zip(
            jax.tree.leaves((state.ema_params, state.discriminator.params)),
            jax.tree.leaves((together.ema_params, together.discriminator.params)),
            strict=True,
        ):
            np.testing.assert_allclose(both[number], one, rtol=1e-3, atol=1e-5)


def test_weights_fall_as_they_say():
    """The weight decays geometrically from the first value to the last."""
    recipe = dataclasses.replace(RECIPE, num_steps=100, penalty_weight=1.0)
    weights = [many.penalty_weight(recipe, jnp.asarray(step)) for step in (0, 50, 100, 200)]
    np.testing.assert_allclose(weights, [1.0, 1e-2, 1e-4, 1e-4], rtol=1e-4)


def test_samples_are_in_units_of_the_spread(quick_compile):
    recipe = dataclasses.replace(RECIPE, data="grid")
    distribution, unit = mixture_2d.data(recipe)
    game = mixture_2d.build(recipe, distribution)
    assert unit == pytest.approx(np.sqrt(8), rel=0.02)
    x = distribution.sample(jax.random.key(0), 1000)
    assert float(jnp.mean(jnp.square(x))) == pytest.approx(1.0, rel=0.05)
    state = game.state(jax.random.key(0))
    assert sample(game.gan, state, jax.random.key(1), 3).shape == (3, 2)


def test_figures_are_means_over_draws(quick_compile):
    """The figures of a perfect sampler agree with theory; one draw has too few samples for that."""
    recipe = dataclasses.replace(RECIPE, num_samples=400, draws=200)
    distribution, _ = mixture_2d.data(recipe)
    found = jax.jit(lambda key: mixture_2d.measure(recipe, distribution, distribution.sample, key))(
        jax.random.key(0)
    )
    assert found["captured"] == 8
    share = 1 - np.exp(-4.5)
    error = np.sqrt(share * (1 - share) / (400 * 200))
    assert float(found["high_quality"]) == pytest.approx(share, abs=4 * error)
    # Up to terms in 1 / N, 2 N KL is a chi-square variable with 7 degrees of freedom.
    error = np.sqrt(2 * 7) / (2 * 400 * np.sqrt(200))
    expected = expected_reverse_kl(8, 400)
    assert float(found["reverse_kl"]) == pytest.approx(expected, abs=4 * error)


def test_a_mode_found_in_some_draws_counts_for_as_much(quick_compile):
    """The sampler has 7 modes, and the eighth in about half of the draws."""
    recipe = dataclasses.replace(RECIPE, num_samples=100, draws=50)
    distribution, _ = mixture_2d.data(recipe)
    modes = jnp.asarray(distribution.modes)

    def draw(key, num):
        last = jax.random.bernoulli(key)
        return modes[jnp.arange(num) % jnp.where(last, 8, 7)]

    found = jax.jit(lambda key: mixture_2d.measure(recipe, distribution, draw, key))(
        jax.random.key(0)
    )
    assert 7.2 < float(found["captured"]) < 7.8
    assert found["high_quality"] == 1
