"""Trains GANs on stacked digits and counts how many of the 1,000 classes they draw, and how evenly.

An image is a stack of three random digits, one in each colour channel (Metz et al. 2017; Srivastava
et al. 2017). The networks are the small ones of the PacGAN study (Lin et al. 2018, section 4.2). A
classifier determines the digits in 26,000 samples. The experiment counts the classes among the
samples, and computes the KL divergence of the histogram of classes from the uniform distribution.
It reports the same metrics for real stacks. At every count it writes samples.png (each stack and
its three digits) and curves.png to --workdir. At the end it writes summary.json. The same command
resumes a run that was stopped.
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

SHAPE = (28, 28, 3)
"""Shape of an image: a stack of three digits."""
KINDS = 1000
"""Number of classes of stacks: ten digits in three channels."""


@dataclasses.dataclass(frozen=True)
class Config(many.Rules):
    """Settings of the experiment. A stack is an image of three digits."""

    workdir: Path = Path("runs/stacked_mnist")
    """Folder of the run."""
    loss: losses.LossName = "relativistic"
    """Loss of D and G."""
    penalty: tuple[str, ...] = ("r1", "r2")
    """Names of D's penalties, from gan_jax.penalties.PENALTIES. Give `--penalty` without a name for
    no penalty."""
    penalty_weight: float = 0.1
    """Initial weight of each penalty (gamma / 2 for R1 and R2), for pixels in [-1, 1]."""
    final_penalty_share: float = 1.0
    """Final weight of each penalty, as a fraction of the initial one. The decay is geometric."""
    noise: float = 0.0
    """Largest standard deviation of the noise added to D's pixels in [-1, 1]. 0 means no noise."""
    discriminator_norm: bool = False
    """Gives D batch norm, as in the PacGAN study. Penalties are then forbidden, because they need a
    D that judges each image by itself."""
    discriminator_width: int = 16
    """Features of D's first layer. The PacGAN study uses 4 or 2."""
    num_steps: int = 3000
    """Updates of G."""
    batch_size: int = 32
    """Real stacks (or packs) in an update of D. D also gets the same number of fakes."""
    latent: int = 256
    """Number of dimensions of z ~ N(0, I)."""
    generator_lr: float = 5e-4
    """Initial learning rate of G. It decays along half a cosine."""
    discriminator_lr: float = 3e-3
    """Initial learning rate of D, which must learn faster than G. For a D of width 4, use 0.008."""
    final_lr_share: float = 0.0
    """Final learning rate of D and G, as a fraction of the initial rate."""
    ema_decay: float = 0.998
    """Largest decay rate of the average of G's weights. Samples are drawn with this average."""
    seeds: int = 1
    """Number of GANs. All are trained in one program, spread over the devices."""
    num_samples: int = 26_000
    """Number of samples in which the classes are counted."""
    counts: int = 3
    """Number of counts during training. One more count is made before training."""
    data: datasets.Config = dataclasses.field(default_factory=datasets.Config)
    """Source of the digits."""


def check(config: Config) -> None:
    """Raises `UserError` for an invalid setting."""
    many.check(config)
    cli.check_at_least(config, counts=1, discriminator_width=1, latent=1)
    many.check_multiple(config.num_steps, config.counts, "--counts")
    if config.discriminator_norm and config.penalty:
        raise UserError(
            f"--discriminator-norm makes D judge whole batches, but {' and '.join(config.penalty)} "
            "are penalties on single images: add --penalty without a name, for no penalty"
        )


def check_digits(dataset: datasets.Dataset) -> None:
    """Raises `UserError` for images other than digits, which the classifier does not know."""
    if dataset.x.shape[1:] != (28, 28, 1):
        height, width, channels = dataset.x.shape[1:]
        raise UserError(
            f"stacks need grey digits of 28x28 pixels, but {dataset.name} has {height}x{width} in "
            f"{channels} channels: use --data.size 28 --data.channels 1"
        )
    if dataset.source != "folder" and dataset.name != "mnist":
        raise UserError(
            f"--data.name must be mnist, whose digits the classifier knows, got {dataset.name}"
        )


def build(config: Config, real: Stacks) -> many.Game:
    """Returns the GAN and its training on stacks, for these settings."""
    gan = small_dcgan(
        SHAPE,
        latent=config.latent,
        discriminator_width=config.discriminator_width,
        discriminator_norm=config.discriminator_norm,
    )
    return many.play(config, gan, real, SHAPE)


def images(draw: Callable[[Array, int], Array], key: Array, num: int) -> Array:
    """Returns `num` samples, uint8 [num, 28, 28, 3]. They are drawn in batches to save memory."""
    keys = jax.random.split(key, -(-num // 1000))
    x = jax.lax.map(lambda key: quantize(draw(key, 1000)), keys)
    return x.reshape(-1, *x.shape[2:])[:num]


def count(x: np.ndarray) -> dict[str, float]:
    """Returns the metrics of stacks, uint8 [N, 28, 28, 3], from the classes of their digits.

    `captured` and `reverse_kl` are those of `class_coverage`. `confidence` is the largest class
    probability of a digit, averaged over all digits. It is low for images that are not clear
    digits. Such images are counted like all others.
    """
    probability = digits.class_probabilities(np.asarray(unstacked(jnp.asarray(x))))
    found = class_coverage(stack_class(jnp.asarray(probability.argmax(axis=1))), KINDS)
    metrics = {**found._asdict(), "confidence": probability.max(axis=1).mean()}
    return {name: float(value) for name, value in metrics.items()}


def beside_channels(x: np.ndarray) -> np.ndarray:
    """Returns each stack with its three digits to its right: [N, H, W, 3] -> [N, H, 4 W, 3]."""
    digit = np.repeat(np.moveaxis(x, 3, 0)[..., None], 3, axis=4)
    return np.concatenate((x, *digit), axis=2)


def together(counted: Sequence[dict[str, float]]) -> many.PerSeed:
    """Returns for each metric the list of its values."""
    return {name: [each[name] for each in counted] for name in counted[0]}


def main(config: Config) -> Record:
    """Trains, counts classes, draws the pictures and returns the summary."""
    check(config)
    parallel.use_every_core()
    dataset = datasets.load(config.data)
    check_digits(dataset)
    return cli.record("stacked_mnist", config, partial(_work, config, dataset))


def _work(config: Config, dataset: datasets.Dataset, folder: RunFolder) -> Record:
    real = Stacks(jnp.asarray(dataset.x))
    game = build(config, real)
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
        save_image(shown, folder.path / "samples.png")
        _curves(_history(folder), of_real, folder.path / "curves.png")
        tqdm.write(f"after {step} updates of G: {counted['captured']} kinds")

    many.train(config, game, folder, [Look(config.num_steps // config.counts, see, show)])
    history = _history(folder)
    of_gan = {name: values for name, values in history[-1].items() if name != "step"}
    metrics = {"gan": of_gan, "real_stacks": of_real}
    print(many.table(metrics))
    return {
        "updates": many.updates(config),
        "data": describe(dataset),
        "classifier": digits.EXTRACTOR,
        "classifier_accuracy": _accuracy(dataset),
        "num_modes": KINDS,
        "expected_reverse_kl": expected_reverse_kl(KINDS, config.num_samples),
        "figures": metrics,
        "history": history,
        "pictures": ["samples.png", "curves.png"],
    }


def _history(folder: RunFolder) -> list[Record]:
    """Returns the metrics of all counts so far."""
    return [
        {"step": step, **{name: values.tolist() for name, values in counted.items()}}
        for step, counted in folder.kept()
    ]


def _accuracy(dataset: datasets.Dataset) -> float | None:
    """Returns the classifier's accuracy on the digits, if they have labels.

    Most of the embedded digits are in the classifier's training set.
    """
    if dataset.label is None:
        return None
    return float((digits.class_probabilities(dataset.x).argmax(axis=1) == dataset.label).mean())


def _curves(history: Sequence[Record], real: many.PerSeed, file: Path) -> None:
    """Plots classes and KL during training, one line for each seed and one for real stacks."""
    labels = {"captured": "kinds of stacks", "reverse_kl": "KL to uniform, nats"}
    figure, both = chart(2, size=(7, 5), sharex=True)
    for axes, (name, label) in zip(both, labels.items(), strict=True):
        axes.plot([at["step"] for at in history], [at[name] for at in history], marker=".", lw=1)
        axes.axhline(np.median(real[name]), color="black", ls="--", lw=1, label="real stacks")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize=8)
    both[1].set_yscale("log")
    both[1].set_xlabel("updates of G")
    save_chart(figure, file)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
