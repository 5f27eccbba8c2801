"""The worker of common JAX code: Linen layers, a jitted step for each player and a Python loop."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

from benchmarks import cases
from benchmarks.problem import dequantized, draw_ring
from benchmarks.workers.linen import Player, fill
from benchmarks.workers.protocol import Loop, Losses, Setting, serve


class TrainState(train_state.TrainState):
    """The state of a player, with the running statistics of its batch norm."""

    batch_stats: Any


def cross_entropy(logits: jax.Array, target: float) -> jax.Array:
    """Returns the mean binary cross-entropy of logits [B] with one label for all."""
    labels = jnp.full_like(logits, target)
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean()


def forward(player: TrainState, params: Any, x: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
    """Returns a player's output in training mode, and its new running statistics."""
    y, updates = player.apply_fn(
        {"params": params, "batch_stats": player.batch_stats},
        x,
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    return y, updates.get("batch_stats", {})


@partial(jax.jit, static_argnames="r1")
def discriminator_step(
    generator: TrainState,
    discriminator: TrainState,
    real: jax.Array,
    z: jax.Array,
    key: jax.Array,
    r1: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates D once. `r1` is the weight of the penalty."""
    key_generator, key_real, key_fake = jax.random.split(key, 3)
    fake, _ = forward(generator, generator.params, z, key_generator)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        real_logits, _ = forward(discriminator, params, real, key_real)
        fake_logits, batch_stats = forward(discriminator, params, fake, key_fake)
        loss = cross_entropy(real_logits, 1.0) + cross_entropy(fake_logits, 0.0)
        metrics = {"discriminator_loss": loss}
        if r1:

            def total(x: jax.Array) -> jax.Array:
                return forward(discriminator, params, x, key_real)[0].sum()

            penalty = jnp.square(jax.grad(total)(real)).sum() / real.shape[0]
            loss, metrics["r1"] = loss + r1 * penalty, penalty
        return loss, (metrics, batch_stats)

    gradients, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(discriminator.params)
    return discriminator.apply_gradients(grads=gradients, batch_stats=batch_stats), metrics


@jax.jit
def generator_step(
    generator: TrainState, discriminator: TrainState, z: jax.Array, key: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates G once."""
    key_generator, key_discriminator = jax.random.split(key)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        fake, batch_stats = forward(generator, params, z, key_generator)
        logits, _ = forward(discriminator, discriminator.params, fake, key_discriminator)
        return cross_entropy(logits, 1.0), batch_stats

    (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(generator.params)
    updated = generator.apply_gradients(grads=gradients, batch_stats=batch_stats)
    return updated, {"generator_loss": loss}


def build(setting: Setting) -> Loop:
    """Returns the loop of `jax_usual`."""
    case, problem, size = setting.case, setting.problem, setting.problem.batch_size
    generator = _player(setting, "generator", case.generator, jnp.asarray(problem.z))
    discriminator = _player(
        setting, "discriminator", case.discriminator, jnp.asarray(dequantized(problem.real))
    )
    images, real, rng = (
        dequantized(problem.images),
        dequantized(problem.real),
        np.random.default_rng(0),
    )

    def draw_real() -> np.ndarray:
        if setting.fixed:
            return real
        if case.on_ring:
            return draw_ring(rng, size)
        return images[rng.integers(len(images), size=size)]

    @jax.jit
    def draw_z(key: jax.Array) -> jax.Array:
        if setting.fixed:
            return jnp.asarray(problem.z)
        if case.model == "maxout":
            return jax.random.uniform(key, problem.z.shape, minval=-(3**0.5), maxval=3**0.5)
        return jax.random.normal(key, problem.z.shape)

    key = jax.random.key(0)

    def loop(steps: int) -> tuple[int, Losses]:
        nonlocal key, generator, discriminator
        for _ in range(steps):
            for _ in range(case.n_critic):
                key, key_z, key_step = jax.random.split(key, 3)
                discriminator, metrics = discriminator_step(
                    generator, discriminator, draw_real(), draw_z(key_z), key_step, case.r1
                )
            key, key_z, key_step = jax.random.split(key, 3)
            generator, generator_metrics = generator_step(
                generator, discriminator, draw_z(key_z), key_step
            )
        jax.block_until_ready(generator)
        return steps, {name: float(x) for name, x in (metrics | generator_metrics).items()}

    return loop


def _player(
    setting: Setting, name: str, layers: tuple[cases.Layer, ...], x: jax.Array
) -> TrainState:
    module: nn.Module = Player(layers)
    variables = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), x)
    statistics = variables.get("batch_stats", {})  # training updates them but never reads them
    return TrainState.create(
        apply_fn=module.apply,
        params=fill(variables["params"], layers, setting.problem.weights[name], flip=True),
        tx=optax.adam(cases.LEARNING_RATE, b1=cases.BETA_1, b2=cases.BETA_2),
        batch_stats=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), statistics),
    )


if __name__ == "__main__":
    serve(build, {"jax": jax.__version__})
