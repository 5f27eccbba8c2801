"""Parzen-window log-likelihoods of several samplers, beside those of Goodfellow et al. 2014.

The images are split into training, validation and test images. GANs are trained on the training
images. A Gaussian window is put round each sample, with pixels in [0, 1]. The width sigma is that
with the highest log-likelihood of the validation images. The score is the mean log-likelihood of
the test images. Other rows put the windows round training images and round their k-means
centroids. The experiment writes table.md and summary.json to --workdir. The same command resumes a
run that was stopped.
"""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments import image_ways
from experiments.image_ways import USUAL, Way
from gan_jax.errors import UserError
from gan_jax.metrics.parzen import choose_sigma, parzen_log_likelihood
from gan_jax.run import RunFolder, cli, datasets
from gan_jax.run.commands import train
from gan_jax.run.files import write_text
from gan_jax.run.folder import Record
from gan_jax.run.images import describe
from gan_jax.run.tables import markdown

WAYS = {
    "maxout": Way(
        "GAN of 2014 (maxout), with Adam",
        USUAL | {"model": "maxout", "latent": 100, "batch_size": 100},
        cost=2.5,
    ),
    "dcgan": Way(
        "DCGAN (Radford et al. 2016)", USUAL | {"width": 32, "discriminator_norm": True}, cost=0.8
    ),
    "recommended": Way(
        "DCGAN with classes, R1, rates that fall to 0",
        {"width": 32, "conditional": "projection", "final_lr_share": 0.0},
    ),
}
"""The GANs. Their costs are CPU times of a step on two cores (AVX2), relative to `recommended`."""

PUBLISHED = {
    "deep belief network": "138 ± 2",
    "stacked contractive autoencoder": "121 ± 1.6",
    "deep generative stochastic network": "214 ± 1.1",
    "GAN": "225 ± 2",
}
"""Log-likelihoods of MNIST in table 1 of Goodfellow et al. 2014, in nats."""

SIGMAS = np.logspace(-1, 0, 10)
"""Candidates for sigma, those of the code of Goodfellow et al. 2014."""

CAVEAT = (
    "The score does not rank generators: centroids of k-means beat real images on it, and a model "
    "with good samples can have any score (Theis et al. 2016). It also rises with the number of "
    "windows, so compare only rows with the same number of windows and the same test images."
)


@dataclasses.dataclass(frozen=True)
class Config(image_ways.Settings):
    """Settings of the table and of the trainings."""

    workdir: Path = Path("runs/parzen_table")
    """Folder of the run. A row in scores/ is not made again, and a training in ways/ resumes."""
    ways: tuple[str, ...] = tuple(WAYS)
    """GANs to train, one for each row of the table."""
    num_steps: int = 2500
    """Updates of G for `recommended`. The others make as many as take the same time."""
    seeds: int = 1
    """Number of seeds. Each GAN is trained once with each seed."""
    run: tuple[Path, ...] = ()
    """Folders of other runs of `gan-jax train` on the same images, which are not trained here."""
    real: tuple[int, ...] = (1000, 5000, 10_000)
    """Numbers of training images in the rows of real images and of centroids. A larger number means
    all of them."""
    data: datasets.Config = dataclasses.field(
        default_factory=lambda: datasets.Config(source="embedded", held_out=2000)
    )
    """The images. Half of the held-out ones choose sigma, and the others are the test images."""


def main(config: Config) -> Record:
    """Trains the GANs, computes the scores and prints the table."""
    image_ways.check(config, WAYS)
    if config.data.held_out < 4:
        raise UserError(f"--data.held-out must be at least 4, got {config.data.held_out}")
    if not config.real or min(config.real) < 2:
        raise UserError("--real must name numbers of images of at least 2")
    for run in config.run:
        train.restore(run)  # fails before the trainings
    return cli.record("parzen_table", config, partial(_work, config))


def counts(config: Config, num: int) -> list[int]:
    """Returns the numbers of windows round real images if there are `num` training images."""
    return sorted({min(count, num) for count in config.real})


def _work(config: Config, folder: RunFolder) -> Record:
    data = datasets.load(config.data)
    half = len(data.held_out) // 2
    judge = partial(score, validation=data.held_out[:half], test=data.held_out[half:])

    def of_centroids(num: int) -> Record:
        return judge(centroids(data.x, num))

    rows = list[tuple[str, Record]]()
    for name in config.ways:
        for seed in range(config.seed, config.seed + config.seeds):
            title = WAYS[name].title + (f", seed {seed}" if config.seeds > 1 else "")
            found, _ = image_ways.row(
                config, WAYS[name], f"{name}_{seed}", seed, folder, lambda x, label: judge(x)
            )
            rows.append((title, found))
    for run in config.run:
        rows.append((run.name, judge(image_ways.draw(run, config.num_samples)[0])))
    shuffled = data.x[np.random.default_rng(0).permutation(len(data.x))]
    for num in counts(config, len(data.x)):
        rows.append(("real training images", judge(shuffled[:num])))
    for num in counts(config, len(data.x) // 3):
        centres = folder.path / "scores" / f"centroids_{num}"
        place = RunFolder(centres, {"data": dataclasses.asdict(config.data), "num": num})
        found = place.once(partial(of_centroids, num))
        rows.append((f"k-means centroids of all {len(data.x):,}", found))
    text = table(rows, data, half)
    write_text(folder.path / "table.md", text)
    print(f"\n{text}")
    return {"data": describe(data), "rows": [{"title": title, **found} for title, found in rows]}


def score(x: np.ndarray, *, validation: np.ndarray, test: np.ndarray) -> Record:
    """Returns the Parzen-window log-likelihood of test images, and the sigma that was chosen.

    Args:
      x: [N, H, W, C] in [0, 255], the images that get a window.
      validation: uint8 [M, H, W, C], the images with which sigma is chosen.
      test: uint8 [M, H, W, C], the images that are scored.
    """
    windows, validation, test = (
        images.reshape(len(images), -1).astype(np.float32) / 255 for images in (x, validation, test)
    )
    sigma = choose_sigma(windows, validation, SIGMAS)
    found = parzen_log_likelihood(windows, test, sigma)
    return {"windows": len(x), "sigma": sigma, "mean": found.mean, "error": found.error}


def centroids(x: NDArray[np.uint8], num: int) -> NDArray[np.float32]:
    """Returns the centroids [num, ...] of k-means, as grey levels from 0 to 255."""
    from sklearn.cluster import KMeans

    flat = x.reshape(len(x), -1).astype(np.float32)
    # The usual choice of the first centroids, k-means++, takes minutes for a thousand of them.
    model = KMeans(num, init="random", n_init=1, max_iter=20, random_state=0).fit(flat)
    return model.cluster_centers_.reshape(num, *x.shape[1:])


def table(rows: list[tuple[str, Record]], data: datasets.Dataset, validation: int) -> str:
    """Returns the protocol, the caveat and a Markdown table.

    Args:
      rows: titles and scores.
      data: the images.
      validation: the number of held-out images that chose sigma.
    """
    test = len(data.held_out) - validation
    cells = []
    for title, found in rows:
        if "diverged" in found:
            cells.append([title, "diverged"])
            continue
        updates = f"{found['updates']:,}" if "updates" in found else ""
        seconds = f"{found['cpu_seconds']:.0f}" if found.get("cpu_seconds") else ""
        likelihood = f"{found['mean']:.1f} ± {found['error']:.1f}"
        cells.append(
            [title, likelihood, f"{found['windows']:,}", f"{found['sigma']:.3f}", updates, seconds]
        )
    cells += [[f"{name}, published", value, "10,000"] for name, value in PUBLISHED.items()]
    header = ("", "log-likelihood, nats", "windows", "sigma", "updates of G", "CPU s")
    return (
        f"Mean log-likelihood of {test:,} test images under Gaussian windows, ± its standard error "
        f"over these images. Pixels are in [0, 1]. Sigma: the best of {len(SIGMAS)} from "
        f"{SIGMAS[0]:g} to {SIGMAS[-1]:g}, in equal ratios, on {validation:,} other images. "
        f"{len(data.x):,} training images. Data: {data.name} ({data.source}). The published rows "
        "have 10,000 windows, MNIST's 60,000 training images and its 10,000 test images."
        f"\n\n{CAVEAT}\n\n{markdown(header, cells)}\n"
    )


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
