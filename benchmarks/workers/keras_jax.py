"""The worker of Keras 3 on JAX: the `keras.Model` of its DCGAN example, trained by `fit`.

The example overrides `train_step`, which must be stateless on this backend. Keras jits it. The code
follows Keras's guide "Customizing what happens in fit() with JAX". Unlike the example, D receives
real and fake in separate batches, because of batch norm.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

from collections.abc import Iterator
from typing import Any

import jax
import keras
import numpy as np

from benchmarks import cases
from benchmarks.problem import Weights, dequantized, draw_ring
from benchmarks.workers.protocol import Loop, Losses, Setting, serve

Values = dict[int, Any]
"""The values of variables during a step, by the variable's identity."""


class Maxout(keras.layers.Layer):
    """The largest of each run of `pieces` neighbours."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def call(self, x: Any) -> Any:
        return keras.ops.max(keras.ops.reshape(x, (x.shape[0], -1, self.pieces)), axis=-1)


class Tanh(keras.layers.Layer):
    """tanh(scale x)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def call(self, x: Any) -> Any:
        return keras.ops.tanh(x * self.scale)


class Noise(keras.layers.Layer):
    """A fresh z [B, latent] at each call, or a fixed z."""

    def __init__(self, shape: tuple[int, ...], *, uniform: bool, fixed: Any = None) -> None:
        super().__init__()
        self.shape, self.uniform, self.fixed = shape, uniform, fixed
        self.seed_generator = keras.random.SeedGenerator(0)
        self.built = True

    def call(self) -> Any:
        if self.fixed is not None:
            return keras.ops.convert_to_tensor(self.fixed)
        if self.uniform:
            return keras.random.uniform(self.shape, -(3**0.5), 3**0.5, seed=self.seed_generator)
        return keras.random.normal(self.shape, seed=self.seed_generator)


class Adversaries(keras.Model):
    """A generator and a discriminator trained by `fit`."""

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        noise: Noise,
        n_critic: int,
        r1: float,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.noise = generator, discriminator, noise
        self.n_critic, self.r1 = n_critic, r1
        self.cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)

    def compile(
        self,
        generator_optimizer: keras.optimizers.Optimizer,
        discriminator_optimizer: keras.optimizers.Optimizer,
    ) -> None:
        super().compile(optimizer=discriminator_optimizer, jit_compile=True)
        discriminator_optimizer.build(self.discriminator.trainable_variables)
        generator_optimizer.build(self.generator.trainable_variables)
        self.generator_optimizer = generator_optimizer
        # Keras passes the variables of one optimizer to a step. The other optimizer's variables
        # belong to the model.
        self.generator_optimizer_variables = list(generator_optimizer.variables)
        self.built = True

    def train_step(self, state: Any, data: Any) -> Any:
        real, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        groups = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        values: Values = {}
        for variables, given in zip(groups, state, strict=True):
            _write(values, variables, given)
        for batch in keras.ops.split(real, self.n_critic):
            logs = self._discriminator_step(values, batch)
        logs |= self._generator_step(values)
        return logs, tuple(_read(values, variables) for variables in groups)

    def _discriminator_step(self, values: Values, real: Any) -> dict[str, Any]:
        discriminator, variables = self.discriminator, self.discriminator.trainable_variables
        fake, _ = _call(self.generator, values, _draw(self.noise, values))

        def loss_fn(trainable: Any) -> Any:
            real_logits, _ = _call(discriminator, values, real, trainable)
            fake_logits, updated = _call(discriminator, values, fake, trainable)
            loss = self._against(1.0, real_logits) + self._against(0.0, fake_logits)
            logs = {"discriminator_loss": loss}
            if self.r1:

                def total(x: Any) -> Any:
                    return keras.ops.sum(_call(discriminator, values, x, trainable)[0])

                squares = keras.ops.square(jax.grad(total)(real))
                logs["r1"] = keras.ops.sum(squares) / real.shape[0]
                loss += self.r1 * logs["r1"]
            return loss, (logs, updated)

        (_, (logs, updated)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            _read(values, variables)
        )
        _write(values, discriminator.non_trainable_variables, updated)
        _apply(self.optimizer, values, gradients, variables)
        return logs

    def _generator_step(self, values: Values) -> dict[str, Any]:
        generator, variables = self.generator, self.generator.trainable_variables
        z = _draw(self.noise, values)

        def loss_fn(trainable: Any) -> Any:
            fake, updated = _call(generator, values, z, trainable)
            logits, _ = _call(self.discriminator, values, fake)
            return self._against(1.0, logits), updated

        (loss, updated), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            _read(values, variables)
        )
        _write(values, generator.non_trainable_variables, updated)
        _apply(self.generator_optimizer, values, gradients, variables)
        return {"generator_loss": loss}

    def _against(self, target: float, logits: Any) -> Any:
        return self.cross_entropy(keras.ops.full_like(logits, target), logits)


def _read(values: Values, variables: Any) -> list[Any]:
    return [values[id(variable)] for variable in variables]


def _write(values: Values, variables: Any, new: Any) -> None:
    values.update(zip(map(id, variables), new, strict=True))


def _call(layer: keras.Layer, values: Values, x: Any, trainable: Any = None) -> tuple[Any, Any]:
    """Returns the output in training mode, and the new non-trainable values."""
    if trainable is None:
        trainable = _read(values, layer.trainable_variables)
    fixed = _read(values, layer.non_trainable_variables)
    return layer.stateless_call(trainable, fixed, x, training=True)


def _draw(noise: Noise, values: Values) -> Any:
    z, updated = noise.stateless_call([], _read(values, noise.non_trainable_variables))
    _write(values, noise.non_trainable_variables, updated)
    return z


def _apply(
    optimizer: keras.optimizers.Optimizer, values: Values, gradients: Any, variables: Any
) -> None:
    trainable, state = optimizer.stateless_apply(
        _read(values, optimizer.variables), gradients, _read(values, variables)
    )
    _write(values, variables, trainable)
    _write(values, optimizer.variables, state)


def player(layers: list[cases.Placed], weights: list[Weights]) -> keras.Model:
    """Returns the layers as a Sequential model with these weights."""
    model = keras.Sequential([keras.Input(layers[0].before), *map(_layer, layers)])
    names = {"scale": "gamma", "bias": "beta"}
    built = [layer for layer in model.layers if layer.trainable_variables]
    for layer, given in zip(built, weights, strict=True):
        norm = isinstance(layer, keras.layers.BatchNormalization)
        for name, array in given.items():
            getattr(layer, names[name] if norm else name).assign(array)
    return model


def _layer(placed: cases.Placed) -> keras.Layer:
    layers = keras.layers
    match placed.layer:
        case cases.Dense(features, bias):
            return layers.Dense(features, use_bias=bias)
        case cases.Conv(features, bias):
            return layers.Conv2D(features, 4, strides=2, padding="same", use_bias=bias)
        case cases.ConvTranspose(features):
            return layers.Conv2DTranspose(features, 4, strides=2, padding="same", use_bias=False)
        case cases.BatchNorm(epsilon):
            return layers.BatchNormalization(momentum=0.9, epsilon=epsilon)
        case cases.LeakyReLU(slope):
            return layers.LeakyReLU(slope) if slope else layers.ReLU()
        case cases.Tanh(scale):
            return Tanh(scale)
        case cases.Maxout(pieces):
            return Maxout(pieces)
        case cases.Dropout(rate):
            return layers.Dropout(rate)
        case cases.Reshape(shape):
            return layers.Reshape(shape)


def build(setting: Setting) -> Loop:
    """Returns the loop of `keras`."""
    _, case, problem, fixed, _ = setting
    keras.utils.set_random_seed(0)
    layers = case.players()
    generator, discriminator = (player(layers[name], problem.weights[name]) for name in layers)
    noise = Noise(
        problem.z.shape, uniform=case.model == "maxout", fixed=problem.z if fixed else None
    )
    model = Adversaries(generator, discriminator, noise, case.n_critic, case.r1)

    def adam() -> keras.optimizers.Adam:
        return keras.optimizers.Adam(
            cases.LEARNING_RATE, beta_1=cases.BETA_1, beta_2=cases.BETA_2, epsilon=1e-8
        )

    model.compile(adam(), adam())
    batches = _batches(setting)

    def loop(steps: int) -> tuple[int, Losses]:
        history = model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0).history
        return steps, {name: float(values[-1]) for name, values in history.items()}

    return loop


def _batches(setting: Setting) -> Iterator[tuple[np.ndarray]]:
    """Yields real batches. Each contains the examples for all of D's updates in a step."""
    _, case, problem, fixed, _ = setting
    images, rng, num = dequantized(problem.images), np.random.default_rng(0), problem.batch_size
    while True:
        if fixed:
            yield (np.concatenate([dequantized(problem.real)] * case.n_critic),)
        elif case.on_ring:
            yield (draw_ring(rng, num * case.n_critic),)
        else:
            yield (images[rng.integers(len(images), size=num * case.n_critic)],)


if __name__ == "__main__":
    serve(build, {"keras": keras.__version__, "jax": jax.__version__})
