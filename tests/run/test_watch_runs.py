"""The watch on short runs: trouble that is planted is named, and healthy runs pass without a word.

All trouble begins after step 500, or at step 0 for trouble of the settings.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax import Batch, Network, adversarial, losses
from gan_jax.algorithms.player import rising_decay
from gan_jax.data.pipeline import dequantize
from gan_jax.data.types import Dataset
from gan_jax.models import MODELS
from gan_jax.optimizers import adam
from gan_jax.penalties import r1
from gan_jax.run import RunFolder, images
from gan_jax.run.datasets import embedded

AT = 500


def digits(training, size=14):
    """Returns the embedded digits in a random order, with 1,000 held out and half the size."""
    examples = embedded.read()
    order = np.random.default_rng(0).permutation(5000)
    x, label = examples.x[order], examples.label[order]
    if size == 14:
        x = x.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4)).astype(np.uint8)
    classes = tuple(map(str, range(10)))
    kept, out = slice(0, training), slice(4000, 5000)
    return Dataset(x[kept], label[kept], "mnist", "embedded", x[out], classes, label[out])


def with_copies(gan, x):
    """Returns the GAN with a G that draws images of x once its state says so."""
    table = dequantize(jnp.asarray(x))
    places = jax.random.normal(jax.random.key(5), (32, len(x)))

    def init(key, z, label=None):
        params, state = gan.generator.init(key, z, label)
        return params, {"net": state, "copies": jnp.zeros(())}

    def apply(params, state, z, label=None, *, train, key=None):
        x, net = gan.generator.apply(params, state["net"], z, label, train=train, key=key)
        copies = table[jnp.argmax(z @ places, axis=1)]
        x = jnp.where(state["copies"] > 0.5, copies + 0 * x, x)
        return x, {"net": net, "copies": state["copies"]}

    return gan._replace(generator=Network(init, apply))


def constant(state):
    """G ignores z."""
    params = state.generator.params
    first = next(leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2)
    params = jax.tree.map(lambda leaf: leaf * 0 if leaf.shape == first.shape else leaf, params)
    return state.replace(generator=state.generator.replace(params=params), ema_params=params)


def copying(state):
    on = {**state.generator.model_state, "copies": jnp.ones(())}
    return state.replace(generator=state.generator.replace(model_state=on), ema_model_state=on)


def planted(step, change, at):
    """Returns the step followed by a change of the state, in every step from `at` on."""

    @functools.wraps(step)
    def stepped(state, batch):
        late = state.generator.step >= at
        state, metrics = step(state, batch)
        return jax.lax.cond(late, change, lambda state: state, state), metrics

    return stepped


def run(
    path,
    dataset,
    *,
    num_steps,
    loss="non_saturating",
    seed=0,
    gamma=0.5,
    rates=(1e-3, 1e-3),
    change=None,
    at=AT,
    gan=lambda gan: gan,
):
    """Trains and returns the troubles that the summary names, as pairs of name and step."""
    networks = gan(MODELS["mlp"](dataset.x.shape[1:], latent=32, width=128))
    generator, discriminator = (adam(rate, b1=0.0, b2=0.99) for rate in rates)
    algorithm = adversarial(
        networks,
        losses.LOSSES[loss],
        generator_tx=generator,
        discriminator_tx=discriminator,
        penalties=[(r1, gamma / 2)] if gamma else [],
        ema_decay=rising_decay(0.99),
    )
    batch = Batch(jnp.zeros((2, *dataset.x.shape[1:])))
    state = jax.jit(algorithm.init)(jax.random.key(seed), batch)
    images.train(
        networks,
        state,
        planted(algorithm.step, change, at) if change else algorithm.step,
        dataset,
        folder=RunFolder(path),
        num_steps=num_steps,
        batch_size=32,
        n_critic=1,
        chunk_length=50,
        sample_every=num_steps,
        evaluate_every=100,
        checkpoint_every=num_steps,
        loss=loss,
        layout="jit",
    )
    summary = json.loads((path / "summary.json").read_text())
    return [(trouble["name"], trouble["step"]) for trouble in summary["troubles"]]


PLANTED = {
    "collapse": (AT, {"change": constant}),
    "memorisation": (AT, {"change": copying}),
    "overfitting of D": (0, {"gamma": 0.0, "rates": (1e-4, 1e-3)}),
    "saturation": (0, {"loss": "minimax", "gamma": 0.0, "rates": (1e-5, 1e-3)}),
    "divergence": (0, {"rates": (1e-3, 0.05), "gamma": 0.0}),
}

HEALTHY = {
    "digits": {},
    "another seed": {"seed": 1},
    "hinge": {"loss": "hinge", "seed": 2},
    "relativistic": {"loss": "relativistic", "seed": 3},
    "wasserstein": {"loss": "wasserstein", "gamma": 10.0, "seed": 4},
    "least squares": {"loss": "least_squares", "seed": 5},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_planted_trouble_is_named_within_500_steps(name, tmp_path):
    begun, settings = PLANTED[name]
    dataset = digits(64 if name == "overfitting of D" else 4000)
    if name == "memorisation":
        settings["gan"] = lambda gan: with_copies(gan, dataset.x[:256])
    found = run(tmp_path / "run", dataset, num_steps=begun + 500, **settings)
    print(name, found)
    assert name in [name for name, _ in found]
    assert all(step > begun for _, step in found)


@pytest.mark.slow
def test_a_run_that_begins_collapsed_is_named(tmp_path):
    found = run(tmp_path / "run", digits(4000), num_steps=3200, change=constant, at=0)
    assert ("collapse from the start", 3100) in found


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_healthy_runs(name, tmp_path):
    assert run(tmp_path / "run", digits(4000), num_steps=1500, **HEALTHY[name]) == []


@pytest.mark.slow
def test_nothing_is_said_of_a_healthy_run_on_digits_of_full_size(tmp_path):
    assert run(tmp_path / "run", digits(4000, size=28), num_steps=1500, seed=6) == []
