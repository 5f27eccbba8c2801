"""Trains the digit classifier whose features define the Fréchet distance.

`python -m benchmarks.train_digit_classifier --out gan_jax/metrics/digits.npz` wrote the weights
that are in the package. After a new training, copy the printed SHA-256 to `gan_jax.metrics.digits`.
Distances measured with the old weights cannot be compared with distances measured with the new
weights.

The training set has only 4,000 digits. Overfitting is reduced by small elastic distortions (Simard
et al. 2003), shifts, rotations, scalings and dropout.
"""

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from benchmarks.report import check_out
from gan_jax.metrics import digits
from gan_jax.run import cli
from gan_jax.run import datasets as data
from gan_jax.run.files import whole

Array = jax.Array
Weights = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the training. The defaults are those of the packaged weights."""

    out: Path  # file for the weights: npz of float16 arrays
    seed: int = 0  # seed of the weights, the order, the distortion and dropout
    epochs: int = 60  # passes over the training digits, at least 2. The first is a warm-up.
    batch_size: int = 100  # images per step
    learning_rate: float = 1e-3  # AdamW's largest rate, which then falls to 0 along a cosine
    dropout: float = 0.3  # share of the 64 features that is dropped
    shift: float = 1.5  # standard deviation of the translation, in pixels
    turn: float = 0.12  # standard deviation of rotation (radians) and scale (relative)
    elastic: float = 0.8  # standard deviation of the local displacement, in pixels
    held_out: int = 1000  # number of digits held out from training


def init(key: Array) -> Weights:
    """Returns He-normal weights and zero biases in float32."""
    shapes = {
        "conv1": (5, 5, 1, 16),
        "conv2": (5, 5, 16, 32),
        "dense1": (7 * 7 * 32, 64),
        "dense2": (64, 10),
    }
    weights: Weights = {}
    for name, shape in shapes.items():
        key, subkey = jax.random.split(key)
        weights[name] = jax.nn.initializers.he_normal()(subkey, shape, jnp.float32)
        weights[name + "_bias"] = jnp.full(shape[-1], 0.5 if name == "dense1" else 0.0)
    return weights


def distort(config: Config, key: Array, x: Array) -> Array:
    """Returns one digit [28, 28, 1], randomly shifted, rotated, scaled, sheared and distorted."""
    keys = jax.random.split(key, 3)
    affine = jnp.eye(2) + config.turn * jax.random.normal(keys[0], (2, 2))
    shift = config.shift * jax.random.normal(keys[1], (2, 1, 1))
    coarse = config.elastic * jax.random.normal(keys[2], (2, 6, 6))
    ripple = jax.image.resize(coarse, (2, 28, 28), "cubic")
    grid = jnp.stack(jnp.meshgrid(jnp.arange(28.0), jnp.arange(28.0), indexing="ij")) - 13.5
    where = jnp.einsum("ij,jhw->ihw", affine, grid) + 13.5 + shift + ripple
    moved = jax.scipy.ndimage.map_coordinates(x[..., 0], list(where), order=1)
    return moved[..., None]


def train(config: Config, x: Array, label: Array) -> Weights:
    """Returns weights trained on x [N, 28, 28, 1], float in [0, 255], and label [N]."""
    batches = len(x) // config.batch_size
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, batches, config.epochs * batches
    )
    tx = optax.adamw(schedule, weight_decay=1e-4)

    def loss(weights: Weights, key: Array, x: Array, label: Array) -> Array:
        key_distort, key_dropout = jax.random.split(key)
        x = jax.vmap(lambda k, x: distort(config, k, x))(jax.random.split(key_distort, len(x)), x)
        hidden = digits.penultimate(weights, x)
        keep = jax.random.bernoulli(key_dropout, 1 - config.dropout, hidden.shape)
        logits = digits.logits(weights, jnp.where(keep, hidden / (1 - config.dropout), 0))
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    @jax.jit
    def epoch(carry: tuple[Weights, optax.OptState], key: Array):  # type: ignore[no-untyped-def]
        def step(carry, inputs):  # type: ignore[no-untyped-def]
            (weights, opt_state), (key, index) = carry, inputs
            value, grads = jax.value_and_grad(loss)(weights, key, x[index], label[index])
            updates, opt_state = tx.update(grads, opt_state, weights)
            return (optax.apply_updates(weights, updates), opt_state), value

        key_order, key_steps = jax.random.split(key)
        order = jax.random.permutation(key_order, len(x))[: batches * config.batch_size]
        inputs = jax.random.split(key_steps, batches), order.reshape(batches, -1)
        carry, losses = jax.lax.scan(step, carry, inputs)
        return carry, losses.mean()

    key_init, key_train = jax.random.split(jax.random.key(config.seed))
    weights = init(key_init)
    carry = weights, tx.init(weights)
    for number, key in enumerate(jax.random.split(key_train, config.epochs), 1):
        carry, value = epoch(carry, key)
        if number % 10 == 0:
            print(f"epoch {number:4d}  loss {value:.4f}", flush=True)
    return carry[0]


def to_npz(weights: Weights) -> bytes:
    """Returns an npz file's content with float16 weights. Equal weights give equal bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in sorted(weights.items()):
            array = io.BytesIO()
            np.save(array, np.asarray(value, np.float16))
            file.writestr(zipfile.ZipInfo(name + ".npy"), array.getvalue())
    return content.getvalue()


def held_out_labels(config: Config) -> NDArray[np.int32]:
    """Returns the labels [M] of the held-out digits, which `gan_jax.data` does not return."""
    label = data.load(data.Config(source="embedded")).label
    assert label is not None  # the embedded digits have labels
    order = np.random.default_rng(0).permutation(len(label))
    return label[np.sort(order[: config.held_out])]


def main(config: Config) -> None:
    """Trains, writes the weights and prints the accuracy of the written weights."""
    check_out(config.out)
    dataset = data.load(data.Config(source="embedded", held_out=config.held_out))
    x, label = jnp.asarray(dataset.x, jnp.float32), jnp.asarray(dataset.label)
    content = to_npz(train(config, x, label))
    with whole(config.out) as opened:
        opened.write(content)
    with np.load(io.BytesIO(content)) as file:
        weights = {name: jnp.asarray(value, jnp.float32) for name, value in file.items()}
    hidden = digits.penultimate(weights, jnp.asarray(dataset.held_out, jnp.float32))
    held_out_label = held_out_labels(config)
    correct = digits.logits(weights, hidden).argmax(-1) == held_out_label
    print(f"held-out accuracy {correct.mean():.4f} ({len(correct)} digits)")
    print(f"features that are never active {(hidden.max(0) == 0).sum()} of {hidden.shape[1]}")
    print(f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
