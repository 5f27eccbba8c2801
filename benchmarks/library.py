"""This library's networks, training step and weights of a case."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.problem import Weights
from gan_jax import init, make_discriminator_step, make_generator_step, make_train_step, penalties
from gan_jax.losses import LOSSES
from gan_jax.models import MODELS
from gan_jax.optimizers import adam
from gan_jax.types import GAN, Array, Batch, PyTree, StepFn, TrainState

_ADAM = adam(cases.LEARNING_RATE, b1=cases.BETA_1, b2=cases.BETA_2)


def library_gan(case: Case) -> GAN:
    """Returns the library's model of a case."""
    options = {"discriminator_norm": case.norm} if case.model == "dcgan" else {}
    return MODELS[case.model](case.shape, latent=case.latent, width=case.widths[0], **options)


def initial_state(case: Case, gan: GAN, key: Array) -> TrainState:
    """Returns the state before the first step."""
    return init(gan, _ADAM, _ADAM, key, Batch(jnp.zeros((1, *case.shape))))


def train_step(case: Case, gan: GAN, axis_name: str | None = None) -> StepFn:
    """Returns the train step. With `axis_name` it is mapped over the devices."""
    both = ((penalties.r1, case.r1), (penalties.r2, case.r2))
    weighted, loss = [pair for pair in both if pair[1]], LOSSES[case.loss]
    return make_train_step(
        make_discriminator_step(gan, loss, _ADAM, penalties=weighted, axis_name=axis_name),
        make_generator_step(gan, loss, _ADAM, axis_name=axis_name),
        n_critic=case.n_critic,
    )


def model_weights(case: Case, rng: np.random.Generator) -> dict[str, list[Weights]]:
    """Returns the initial parameters plus noise, which makes biases and last layers count.

    Directions of spectral norm are those of the largest singular values, where PyTorch's power
    iteration and the library's agree.
    """
    gan, x = library_gan(case), jnp.zeros((1, *case.shape))
    z = gan.prior(jax.random.key(0), 1)
    drawn = jax.jit(
        lambda key: (gan.generator.init(key, z), gan.discriminator.init(key, x)),
        compiler_options={"xla_backend_optimization_level": 0},
    )(jax.random.key(int(rng.integers(2**32))))
    return {
        player: _noisy(params, state, rng)
        for player, (params, state) in zip(("generator", "discriminator"), drawn, strict=True)
    }


def _noisy(params: PyTree, state: PyTree, rng: np.random.Generator) -> list[Weights]:
    weights: Weights = {}
    for path, leaf in flatten_dict(jax.device_get(params), sep="/").items():
        noise = rng.normal(0.0, 0.02, leaf.shape) if leaf.ndim else 0.0
        weights[path] = np.asarray(leaf + noise, np.float32)
    directions: Weights = {}
    for path in state.get("directions", {}):
        kernel = weights[f"{path}/kernel"]
        left, _, _ = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)
        directions[path] = left[:, 0]
    return [weights, directions] if directions else [weights]
