"""Trains the small classifiers whose features define the Fréchet distances of digits and clothes.

These commands wrote the weights that are in the package:

    python -m benchmarks.train_classifiers --recipe digits --out gan_jax/metrics/digits.npz
    python -m benchmarks.train_classifiers --recipe fashion --out gan_jax/metrics/fashion.npz

The second command needs the four IDX files of Fashion-MNIST in --data.dir. After a new training,
copy the printed SHA-256 to `gan_jax.metrics.digits` or `gan_jax.metrics.fashion`. Distances
measured with the old weights cannot be compared with distances measured with the new weights.

Overfitting is reduced by small elastic distortions (Simard et al. 2003), shifts, rotations,
scalings and dropout.
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
from gan_jax.errors import UserError
from gan_jax.metrics import classifier
from gan_jax.run import cli, datasets
from gan_jax.run.datasets import idx
from gan_jax.run.files import whole

Array = jax.Array
Weights = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the training. The defaults are those of the weights for digits."""

    out: Path = Path("classifier.npz")  # file for the weights: npz of float16 arrays
    # The images to train on. The accuracy is measured on the images that --data.held-out holds out,
    # or on the test files of a folder of IDX files.
    data: datasets.Config = dataclasses.field(
        default_factory=lambda: datasets.Config(source="embedded", held_out=1000)
    )
    seed: int = 0  # seed of the weights, the order, the distortion and dropout
    epochs: int = 60  # passes over the training images, at least 2. The first is a warm-up.
    batch_size: int = 100  # images per step
    learning_rate: float = 1e-3  # AdamW's largest rate, which then falls to 0 along a cosine
    dropout: float = 0.3  # share of the 64 features that is dropped
    shift: float = 1.5  # standard deviation of the translation, in pixels
    turn: float = 0.12  # standard deviation of rotation (radians) and scale (relative)
    elastic: float = 0.8  # standard deviation of the local displacement, in pixels


RECIPES = {
    "digits": Config(),
    "fashion": Config(
        data=datasets.Config(
            name="fashion_mnist", source="idx", dir=Path("/usr/share/datasets/fashion-mnist")
        ),
        epochs=12,
        shift=0.5,
        turn=0.03,
        elastic=0.2,
    ),
}
"""The settings that trained the weights in the package, by the name of the extractor."""


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
    """Returns one image [28, 28, 1], randomly shifted, rotated, scaled, sheared and distorted."""
    keys = jax.random.split(key, 3)
    affine = jnp.eye(2) + config.turn * jax.random.normal(keys[0], (2, 2))
    shift = config.shift * jax.random.normal(keys[1], (2, 1, 1))
    coarse = config.elastic * jax.random.normal(keys[2], (2, 6, 6))
    ripple = jax.image.resize(coarse, (2, 28, 28), "cubic")
    grid = jnp.stack(jnp.meshgrid(jnp.arange(28.0), jnp.arange(28.0), indexing="ij")) - 13.5
    where = jnp.einsum("ij,jhw->ihw", affine, grid) + 13.5 + shift + ripple
    moved = jax.scipy.ndimage.map_coordinates(x[..., 0], list(where), order=1)
    return moved[..., None]


def train(config: Config, x: NDArray[np.uint8], label: NDArray[np.int32]) -> Weights:
    """Returns weights trained on x [N, 28, 28, 1], uint8, and label [N]."""
    batches = len(x) // config.batch_size
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, batches, config.epochs * batches
    )
    tx = optax.adamw(schedule, weight_decay=1e-4)

    def loss(weights: Weights, key: Array, x: Array, label: Array) -> Array:
        key_distort, key_dropout = jax.random.split(key)
        x = jax.vmap(lambda k, x: distort(config, k, x))(jax.random.split(key_distort, len(x)), x)
        hidden = classifier.penultimate(weights, x)
        keep = jax.random.bernoulli(key_dropout, 1 - config.dropout, hidden.shape)
        logits = classifier.logits(weights, jnp.where(keep, hidden / (1 - config.dropout), 0))
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    # Steps are not scanned, because XLA's convolutions are slow inside a loop on a CPU.
    @jax.jit
    def step(
        weights: Weights, opt_state: optax.OptState, key: Array, x: Array, label: Array
    ) -> tuple[Weights, optax.OptState, Array]:
        value, grads = jax.value_and_grad(loss)(weights, key, x.astype(jnp.float32), label)
        updates, opt_state = tx.update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state, value

    key_init, key_train = jax.random.split(jax.random.key(config.seed))
    weights = init(key_init)
    opt_state = tx.init(weights)
    for number, key in enumerate(jax.random.split(key_train, config.epochs), 1):
        key_order, key_steps = jax.random.split(key)
        order = np.asarray(jax.random.permutation(key_order, len(x)))
        indices = order[: batches * config.batch_size].reshape(batches, -1)
        losses = []
        for key, index in zip(jax.random.split(key_steps, batches), indices, strict=True):
            weights, opt_state, value = step(weights, opt_state, key, x[index], label[index])
            losses.append(value)
        print(f"epoch {number:4d}  loss {np.mean(losses):.4f}", flush=True)
    return weights


def to_npz(weights: Weights) -> bytes:
    """Returns an npz file's content with float16 weights. Equal weights give equal bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in sorted(weights.items()):
            array = io.BytesIO()
            np.save(array, np.asarray(value, np.float16))
            file.writestr(zipfile.ZipInfo(name + ".npy"), array.getvalue())
    return content.getvalue()


def test_examples(
    config: Config, dataset: datasets.Dataset
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Returns images [M, 28, 28, 1] that are not trained on, and their labels [M].

    Raises:
      UserError: nothing is held out, and the data are not IDX files.
    """
    if dataset.held_out_label is not None and len(dataset.held_out):
        return dataset.held_out, dataset.held_out_label
    if config.data.source != "idx" or config.data.dir is None:
        raise UserError("--data.held-out 0 leaves no images to measure the accuracy: hold some out")
    x, label = (
        idx.read_file(config.data.dir / f"t10k-{kind}-idx{ndim}-ubyte.gz", ndim)
        for kind, ndim in (("images", 3), ("labels", 1))
    )
    return x[..., None], label.astype(np.int32)


def main(config: Config) -> None:
    """Trains, writes the weights and prints the accuracy of the written weights."""
    check_out(config.out)
    dataset = datasets.load(config.data, labelled=True)
    assert dataset.label is not None
    test_x, test_label = test_examples(config, dataset)
    content = to_npz(train(config, dataset.x, dataset.label))
    with whole(config.out) as opened:
        opened.write(content)
    with np.load(io.BytesIO(content)) as file:
        weights = {name: jnp.asarray(value, jnp.float32) for name, value in file.items()}
    hidden = jax.lax.map(
        lambda x: classifier.penultimate(weights, x[None].astype(jnp.float32))[0],
        jnp.asarray(test_x),
        batch_size=1000,
    )
    correct = classifier.logits(weights, hidden).argmax(-1) == test_label
    print(f"trained on {len(dataset.x):,} images of {dataset.name}")
    print(f"accuracy {correct.mean():.4f} on {len(correct):,} other images")
    print(f"features that are never active {(hidden.max(0) == 0).sum()} of {hidden.shape[1]}")
    print(f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "", recipes=RECIPES, recipe="digits")
