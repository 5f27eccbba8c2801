"""Trains several ways on Fashion-MNIST in equal CPU time and compares their samples.

The first six ways are the losses of Lucic et al. 2018, with one network, one learning rate and no
batch norm in D, which a gradient penalty does not allow. The seventh is DCGAN as published, with
batch norm in D. The others are ours. All have DCGANs of the same width. A row of the table is a
way, with several seeds. The experiment writes table.md, samples.png (two lines of samples for each
way) and summary.json to --workdir. The same command resumes a run that was stopped.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from experiments import image_ways
from experiments.image_ways import USUAL, Way
from gan_jax.errors import UserError
from gan_jax.metrics.extractors import EXTRACTORS
from gan_jax.run import cli, datasets
from gan_jax.run.folder import Record
from gan_jax.run.scoring import reference

_WIDTH: dict[str, Any] = {"width": 32}
_LOSS: dict[str, Any] = _WIDTH | USUAL
_WASSERSTEIN: dict[str, Any] = _LOSS | {"loss": "wasserstein", "n_critic": 5, "b1": 0.0, "b2": 0.9}
_OURS: dict[str, Any] = _WIDTH | {"final_lr_share": 0.0}

WAYS = {
    "minimax": Way("minimax", _LOSS | {"loss": "minimax"}, cost=0.8),
    "non_saturating": Way("non-saturating", _LOSS, cost=0.8),
    "least_squares": Way("least squares", _LOSS | {"loss": "least_squares"}, cost=0.8),
    "wgan": Way("WGAN, weights clipped", _WASSERSTEIN | {"clip_weights": 0.01}, cost=2.3),
    "wgan_gp": Way("WGAN-GP", _WASSERSTEIN | {"gradient_penalty": 10.0}, cost=3.9),
    "dragan": Way("DRAGAN", _LOSS | {"dragan": 10.0}, cost=1.2),
    "dcgan": Way(
        "non-saturating, batch norm in D (DCGAN)", _LOSS | {"discriminator_norm": True}, cost=0.8
    ),
    "r1": Way("R1, rates that fall to 0", _OURS | {"conditional": "none"}),
    "clusters": Way("the same with 30 clusters", _OURS | {"clusters": 30}),
    "classes": Way("the same with classes", _OURS | {"conditional": "projection"}),
}
"""The ways to train. Their costs are CPU times of a step on two cores (AVX2), relative to `r1`.

The first seven have Adam with a rate of 0.0002 and b1 = 0.5 (Radford et al. 2016). The two
Wasserstein losses have b1 = 0, b2 = 0.9 and five updates of D for each of G (Gulrajani et al.
2017).
"""


@dataclasses.dataclass(frozen=True)
class Config(image_ways.Settings):
    """Settings of the table and of the trainings."""

    workdir: Path = Path("runs/benchmark_fashion_mnist")
    """Folder of the run. A row in scores/ is not made again, and a training in ways/ resumes."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Ways to train, one for each row of the table."""
    num_steps: int = 4000
    """Updates of G for `r1`. The others make as many as take the same time."""
    data: datasets.Config = dataclasses.field(
        default_factory=lambda: datasets.Config(name="fashion_mnist")
    )
    """The images."""
    test: Path | None = None
    """The test images: the file t10k-images-idx3-ubyte, or the same with .gz."""


def main(config: Config) -> Record:
    """Trains every way with every seed, draws the picture and prints the table."""
    image_ways.check(config, WAYS)
    if config.test is None:
        raise UserError("give the 10,000 test images: --test DIR/t10k-images-idx3-ubyte.gz")
    test = reference.read(str(config.test), "--test")
    return cli.record(
        "benchmark_fashion_mnist",
        config,
        partial(image_ways.compare, config, WAYS, test.x, EXTRACTORS["fashion"]),
    )


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
