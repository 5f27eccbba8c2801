"""A GAN on stacked digits: how many of 1,000 kinds of images it finds, and how evenly.

An image is three random digits, one in each colour channel (Metz et al. 2017; Srivastava et al.
2017), made by the small networks of the PacGAN study (Lin et al. 2018, section 4.2). A classifier
names the digits of 26,000 samples; counted are the kinds among them, and the KL divergence of their
histogram from the uniform one, with the figures of real stacks beside. Writes to --workdir:
samples.png (the stacks, each with its digits) and curves.png whenever it has counted, summary.json
when all is done. The same command resumes a run that was stopped.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import many
from gan_jax import TrainState, losses, parallel, sample
from gan_jax.data.pipeline import quantize
from gan_jax.data.stacked import Stacks, stack_class, unstacked
from gan_jax.errors import UserError
from gan_jax.metrics import digits
from gan_jax.metrics.modes import class_coverage, expected_reverse_kl
from gan_jax.models.small_dcgan import small_dcgan
from gan_jax.run import Look, RunFolder, cli, datasets
from gan_jax.run.folder import Record
from gan_jax.run.images import describe
from gan_jax.run.plots import chart, grid, save_chart, save_image
from gan_jax.types import Array

KINDS = 1000
"""Of stacks: ten digits in three channels."""

Figures = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Config(many.Rules):
    """Which game is played on stacks, for how long, how often, and where its figures go."""

    workdir: Path = Path("runs/stacked_mnist")
    """Where the pictures and the figures go."""
    loss: losses.LossName = "relativistic"
    """What both players minimise."""
    penalty: tuple[str, ...] = ("r1", "r2")
    """Penalties on D, names of gan_jax.penalties.PENALTIES; none with `--penalty` alone."""
    penalty_weight: float = 0.1
    """Weight of each at the start, of pixels in [-1, 1]: gamma / 2 for R1 and R2."""
    final_penalty_share: float = 1.0
    """Of that weight, what it falls to, geometrically; 1: it stays."""
    noise: float = 0.0
    """Added to some of what D sees in training, of all scales up to this, of pixels in [-1, 1]; 0:
    none."""
    discriminator_norm: bool = False
    """Whether D has batch norm, as in the study: for a game without penalties, which see each
    image by itself."""
    discriminator_width: int = 16
    """Features of D's first layer, of G's last there are 8. The study has 4 and 2."""
    num_steps: int = 3000
    """G's updates."""
    batch_size: int = 32
    """Stacks, or packs of them, that D judges in an update."""
    latent: int = 256
    """Dimensions of z ~ N(0, I)."""
    generator_lr: float = 5e-4
    """Learning rate of G at the start; it falls along a half cosine."""
    discriminator_lr: float = 3e-3
    """Of D, which keeps up only if it learns faster: with 4 features .008 is good."""
    final_lr_share: float = 0.0
    """Of either rate, what it falls to."""
    ema_decay: float = 0.998
    """Of the average of G's weights that is sampled."""
    seeds: int = 1
    """GANs trained at once, in one program, spread over the devices."""
    num_samples: int = 26_000
    """Samples that the kinds are counted in."""
    counts: int = 3
    """How often they are counted in the course of training, besides once before it."""
    data: datasets.Config = dataclasses.field(default_factory=datasets.Config)
    """Where the digits come from."""


def check(config: Config) -> None:
    """Raises `UserError` for values that no run could use."""
    many.check(config)
    cli.check_at_least(config, counts=1, discriminator_width=1, latent=1)
    many.check_chunks(config, config.counts, "--counts")
    if config.discriminator_norm and config.penalty:
        raise UserError(
            f"--discriminator-norm has D judge batches, {' and '.join(config.penalty)} are "
            "penalties on single images: add a bare --penalty, which is none"
        )


def check_digits(dataset: datasets.Dataset) -> None:
    """Raises `UserError` for images that the classifier was not made for."""
    if dataset.x.shape[1:] != (28, 28, 1):
        height, width, channels = dataset.x.shape[1:]
        raise UserError(
            f"stacks are of grey digits of 28x28 pixels, {dataset.name} has {height}x{width} in "
            f"{channels} channels: use --data.size 28 --data.channels 1"
        )
    if dataset.source != "folder" and dataset.name != "mnist":
        raise UserError(
            f"--data.name must be mnist, whose digits the classifier knows, got {dataset.name}"
        )


def build(config: Config, real: Stacks) -> many.Game:
    """The game that the settings describe, on these stacks."""
    height, width = real.digits.shape[1:3]
    shape = (height, width, 3)
    gan = small_dcgan(
        shape,
        latent=config.latent,
        discriminator_width=config.discriminator_width,
        discriminator_norm=config.discriminator_norm,
    )
    return many.play(config, gan, real, shape)


def images(draw: Callable[[Array, int], Array], key: Array, num: int) -> Array:
    """`num` draws [num, 28, 28, 3] as uint8, made a thousand at a time for memory's sake."""
    keys = jax.random.split(key, -(-num // 1000))
    x = jax.lax.map(lambda key: quantize(draw(key, 1000)), keys)
    return x.reshape(-1, *x.shape[2:])[:num]


def count(x: np.ndarray) -> dict[str, float]:
    """The figures of stacks, uint8 [N, 28, 28, 3], as the classifier sees their digits.

    Keys: `captured` and `reverse_kl` of `class_coverage`; `confidence`, the mean over the digits of
    the largest class probability: kinds are counted whatever the images look like, and images that
    are no digits show here.
    """
    probability = digits.class_probabilities(np.asarray(unstacked(jnp.asarray(x))))
    found = class_coverage(stack_class(jnp.asarray(probability.argmax(axis=1))), KINDS)
    figures = {**found._asdict(), "confidence": probability.max(axis=1).mean()}
    return {name: float(value) for name, value in figures.items()}


def beside_channels(x: np.ndarray) -> np.ndarray:
    """Each stack with its three digits to the right of it: [N, H, W, 3] -> [N, H, 4 W, 3]."""
    digit = np.repeat(np.moveaxis(x, 3, 0)[..., None], 3, axis=4)
    return np.concatenate((x, *digit), axis=2)


def together(counted: Sequence[dict[str, float]]) -> Figures:
    """The figures of several samples, each a list."""
    return {name: [each[name] for each in counted] for name in counted[0]}


def main(config: Config) -> Record:
    """Trains, counts, draws."""
    check(config)
    parallel.use_every_core()
    dataset = datasets.load(config.data)
    check_digits(dataset)
    return cli.record("stacked_mnist", config, partial(_work, config, dataset))


def _work(config: Config, dataset: datasets.Dataset, folder: RunFolder) -> Record:
    real = Stacks(jnp.asarray(dataset.x))
    game, path = build(config, real), folder.path
    keys = [jax.random.key(seed) for seed in range(config.seed, config.seed + config.seeds)]
    draw_real = jax.jit(lambda key: images(real.sample, key, config.num_samples))
    of_real = together([count(np.asarray(draw_real(key))) for key in keys])

    def see(states: TrainState) -> Array:
        def draw(each: tuple[TrainState, Array]) -> Array:
            return images(partial(sample, game.gan, each[0]), each[1], config.num_samples)

        return jax.lax.map(draw, (states, jnp.stack(keys)))

    def show(step: int, made: np.ndarray) -> None:
        counted = together([count(x) for x in made])
        folder.keep(step, counted)
        shown = grid(beside_channels(made[0][:48]), columns=4, height=1008)
        save_image(shown, path / "samples.png")
        _curves(_history(folder), of_real, path / "curves.png")
        tqdm.write(f"after {step} updates of G: kinds {counted['captured']}")

    many.train(config, game, folder, [Look(config.num_steps // config.counts, see, show)])
    history = _history(folder)
    figures = {
        "gan": {name: values for name, values in history[-1].items() if name != "step"},
        "real_stacks": of_real,
    }
    print(many.table(figures))
    return {
        "updates": many.updates(config),
        "data": describe(dataset),
        "classifier": digits.EXTRACTOR,
        "classifier_accuracy": _accuracy(dataset),
        "num_modes": KINDS,
        "expected_reverse_kl": expected_reverse_kl(KINDS, config.num_samples),
        "figures": figures,
        "history": history,
        "pictures": ["samples.png", "curves.png"],
    }


def _history(folder: RunFolder) -> list[Record]:
    """The figures counted so far."""
    return [
        {"step": step, **{name: values.tolist() for name, values in counted.items()}}
        for step, counted in folder.kept()
    ]


def _accuracy(dataset: datasets.Dataset) -> float | None:
    """The share of the digits at hand that the classifier is right about, if they have labels.

    Most of the embedded ones are those it was trained on.
    """
    if dataset.label is None:
        return None
    return float((digits.class_probabilities(dataset.x).argmax(axis=1) == dataset.label).mean())


def _curves(history: Sequence[Record], real: Figures, file: Path) -> None:
    """Kinds and KL over training, a line for each seed, with those of real stacks."""
    figure, both = chart(2, size=(7, 5), sharex=True)
    for axes, name in zip(both, ("captured", "reverse_kl"), strict=True):
        axes.plot([at["step"] for at in history], [at[name] for at in history], marker=".", lw=1)
        axes.axhline(np.median(real[name]), color="black", ls="--", lw=1, label="real stacks")
        axes.set_ylabel({"captured": "kinds of stacks", "reverse_kl": "KL to uniform, nats"}[name])
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize=8)
    both[1].set_yscale("log")
    both[1].set_xlabel("updates of G")
    save_chart(figure, file)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
