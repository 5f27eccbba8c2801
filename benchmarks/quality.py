"""Measures the Fréchet distance of generated digits, and of real ones, to held-out digits.

`python -m benchmarks.quality ours=samples.npz pytorch=torch_seed0.npz ...` prints a row for real
training digits, one for an untrained generator and one for each file. A file is an npz with `x`
uint8 [N, 28, 28, 1], such as `experiments.sample` and `benchmarks.torch_dcgan` write. All rows
compare the same number of images with the same held-out digits, so they have the same sample-size
bias.
"""

import dataclasses
import zipfile
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.report import check_out
from experiments import mnist
from gan_jax import sample
from gan_jax.data.pipeline import quantize
from gan_jax.errors import UserError
from gan_jax.metrics import digits
from gan_jax.metrics.frechet import gaussian_distance, statistics
from gan_jax.run import cli
from gan_jax.run import datasets as data
from gan_jax.run.files import whole
from gan_jax.run.tables import markdown


@dataclasses.dataclass(frozen=True)
class Config:
    """The samples to compare and the numbers of images."""

    samples: Annotated[tuple[str, ...], tyro.conf.Positional] = ()  # files, each NAME=FILE.npz
    count: int = 4000  # number of images per row, from the start of each file
    held_out: int = 1000  # number of held-out digits
    bootstraps: int = 20  # bootstrap resamplings per row, for the spread
    seed: int = 0  # seed of the resampling
    export: Path | None = None  # file for the training digits, for benchmarks.torch_dcgan


class Row(NamedTuple):
    """One row of the table."""

    name: str
    distance: float  # Fréchet distance to the held-out digits
    spread: float  # standard deviation of the distance over bootstraps
    num: int  # number of images
    rarest_digit: int  # the class predicted least often
    rarest_share: float  # its share of the images (0.1 if all are equal)
    confidence: float  # mean of the largest class probability


def measure(config: Config, name: str, x: NDArray[np.uint8], held_out: NDArray[np.uint8]) -> Row:
    """Returns the row of images x [N, 28, 28, 1] compared with held-out digits [M, 28, 28, 1]."""
    features, target = digits.features(x), statistics(digits.features(held_out))
    rng = np.random.default_rng(config.seed)
    resampled = [
        gaussian_distance(*statistics(features[rng.integers(len(x), size=len(x))]), *target)
        for _ in range(config.bootstraps)
    ]
    probabilities = digits.class_probabilities(x)
    share = np.bincount(probabilities.argmax(-1), minlength=10) / len(x)
    return Row(
        name=name,
        distance=gaussian_distance(*statistics(features), *target),
        spread=float(np.std(resampled, ddof=1)) if config.bootstraps > 1 else float("nan"),
        num=len(x),
        rarest_digit=int(share.argmin()),
        rarest_share=float(share.min()),
        confidence=float(probabilities.max(-1).mean()),
    )


def table(rows: list[Row], held_out: int) -> str:
    """Returns the rows as Markdown."""
    title = (
        f"Fréchet distance on digit-classifier features ({digits.EXTRACTOR}) "
        f"to {held_out} held-out digits; ± over bootstraps of the images"
    )
    header = ("images", "N", "Fréchet distance", "rarest digit, share", "mean max probability")
    cells = (
        (
            *(row.name, row.num, f"{row.distance:.2f} ± {row.spread:.2f}"),
            *(f"{row.rarest_digit}, {row.rarest_share:.1%}", f"{row.confidence:.3f}"),
        )
        for row in rows
    )
    return f"{title}\n\n{markdown(header, cells)}"


def load_samples(argument: str, count: int) -> tuple[str, NDArray[np.uint8]]:
    """Returns the name and the first `count` images of `NAME=FILE.npz`.

    Raises:
      UserError: the argument has no name, the file cannot be read, or its images are too few or of
        another shape or type.
    """
    name, separator, text = argument.partition("=")
    if not (name and separator and text):
        raise UserError(f"expected NAME=FILE.npz, got {argument!r}")
    path = Path(text).expanduser()  # a shell does not expand the ~ in NAME=~/FILE
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            x = arrays["x"]
    except (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no npz file with an array `x` ({error})") from None
    if x.dtype != np.uint8 or x.shape[1:] != (28, 28, 1):
        raise UserError(f"{path}: x must be uint8 [N, 28, 28, 1], got {x.dtype} {list(x.shape)}")
    if len(x) < count:
        raise UserError(f"{path} has {len(x)} images; --count {count} are compared")
    return name, x[:count]


def validate(config: Config) -> None:
    """Raises `UserError` for an invalid setting. The message names its flag."""
    cli.check_at_least(config, count=2, held_out=2, bootstraps=0)
    cli.check_seed(config)
    if config.export is not None and config.export.suffix != ".npz":
        raise UserError(f"--export must end in .npz, got {config.export}")
    check_out(config.export, "--export")


def untrained_samples(count: int) -> NDArray[np.uint8]:
    """Returns samples of the generator of `experiments.mnist` before its first step."""
    gan, state, _ = mnist.build(mnist.Config())
    return np.asarray(quantize(sample(gan, state, jax.random.key(0), count)))


def main(config: Config) -> list[Row]:
    """Prints the table, with real digits first, and returns its rows."""
    validate(config)
    samples = [load_samples(argument, config.count) for argument in config.samples]
    dataset = data.load(data.Config(source="embedded", held_out=config.held_out))
    if len(dataset.x) < config.count:
        raise UserError(
            f"--count {config.count} is more than the {len(dataset.x)} real digits that --held-out "
            f"{config.held_out} leaves"
        )
    if config.export is not None:
        with whole(config.export) as opened:
            np.savez_compressed(opened, x=dataset.x)
    samples.insert(0, ("real training digits", dataset.x[: config.count]))
    samples.append(("untrained generator", untrained_samples(config.count)))
    rows = [measure(config, name, x, dataset.held_out) for name, x in samples]
    print(table(rows, len(dataset.held_out)))
    return rows


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
