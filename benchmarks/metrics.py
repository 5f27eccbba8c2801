"""Measures the time of each score beside its reference library, on the same features.

`python -m benchmarks.metrics` prints a table of CPU seconds and wall-clock seconds, the medians of
repetitions in turn: ours, theirs, ours, theirs. It needs torch-fidelity, prdc and scikit-learn
(`pip install --no-deps torch-fidelity prdc`, with torch, torchvision and tqdm). A reference that is
not installed is left out.
"""

import contextlib
import dataclasses
import importlib
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gan_jax.metrics.frechet import frechet_distance
from gan_jax.metrics.kernel import kernel_distance
from gan_jax.metrics.manifolds import prdc
from gan_jax.metrics.parzen import parzen_log_likelihood
from gan_jax.metrics.sliced import sliced_wasserstein
from gan_jax.run import cli
from gan_jax.run.tables import markdown

Features = NDArray[np.float32]
Score = Callable[[Features, Features], Any]


@dataclasses.dataclass(frozen=True)
class Config:
    """The features to score and the scores to time."""

    num: int = 10_000  # number of features in each set
    dims: tuple[int, ...] = (64, 2048)  # dimensions of the features
    repeats: int = 2  # repetitions of each score
    scores: tuple[str, ...] = ("frechet", "kernel", "prdc", "parzen", "sliced")


def _their_frechet(a: Features, b: Features) -> float:
    fid = importlib.import_module("torch_fidelity.metric_fid")
    torch = importlib.import_module("torch")
    pair = (fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b))
    return fid.fid_statistics_to_metric(*pair, False)["frechet_inception_distance"]


def _their_kernel(a: Features, b: Features) -> float:
    kid = importlib.import_module("torch_fidelity.metric_kid")
    torch = importlib.import_module("torch")
    pair = (torch.from_numpy(x) for x in (a, b))
    options = {"kid_subset_size": min(1000, len(a)), "verbose": False}
    return kid.kid_features_to_metric(*pair, **options)["kernel_inception_distance_mean"]


def _their_prdc(a: Features, b: Features) -> tuple[float, ...]:
    with contextlib.redirect_stdout(io.StringIO()):
        return tuple(importlib.import_module("prdc").compute_prdc(a, b, 5).values())


def _their_parzen(a: Features, b: Features) -> float:
    density = importlib.import_module("sklearn.neighbors").KernelDensity
    # One leaf: with more, scikit-learn loses the logarithms of small densities.
    return density(bandwidth=1.0, leaf_size=len(a) + 1).fit(a).score_samples(b).mean()


def _their_sliced(a: Features, b: Features) -> float:
    distance = importlib.import_module("scipy.stats").wasserstein_distance
    directions = np.random.RandomState(0).normal(size=(128, a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return float(np.mean([distance(a @ u, b @ u) for u in directions]))


SCORES: dict[str, tuple[Score, Score]] = {
    "frechet": (frechet_distance, _their_frechet),
    "kernel": (
        lambda a, b: kernel_distance(a, b, 2020, subset_size=min(1000, len(a))).distance,
        _their_kernel,
    ),
    "prdc": (prdc, _their_prdc),
    "parzen": (lambda a, b: parzen_log_likelihood(a, b, 1.0).mean, _their_parzen),
    "sliced": (lambda a, b: sliced_wasserstein(a, b, 0, order=1), _their_sliced),
}


def features(num: int, dim: int) -> tuple[Features, Features]:
    """Returns two sets [num, dim] of correlated features with different means and widths."""
    rng = np.random.RandomState(0)
    mixing = rng.normal(size=(dim, dim)) / np.sqrt(dim * np.arange(1, dim + 1)[:, None])
    a = rng.normal(size=(num, dim)) @ mixing
    b = 1.05 * rng.normal(size=(num, dim)) @ mixing + 0.05
    return a.astype(np.float32), b.astype(np.float32)


def timed(score: Score, a: Features, b: Features) -> tuple[float, float, Any]:
    """Returns the CPU seconds, the wall-clock seconds and the result of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = score(a, b)
    return time.process_time() - cpu, time.perf_counter() - wall, result


def main(config: Config) -> None:
    """Prints the table."""
    rows = []
    for dim in config.dims:
        a, b = features(config.num, dim)
        for name in config.scores:
            for score in SCORES[name]:
                with contextlib.suppress(ImportError):
                    score(a[:200], b[:200])  # imports what it needs
            runs: tuple[list[Any], list[Any]] = ([], [])
            for _ in range(config.repeats):
                for score, done in zip(SCORES[name], runs, strict=True):
                    with contextlib.suppress(ImportError):
                        done.append(timed(score, a, b))
            cells = [
                f"{statistics.median(r[i] for r in done):.2f}" if done else "-"
                for i in (0, 1)
                for done in runs
            ]
            results = [str(done[0][2]) if done else "-" for done in runs]
            rows.append([name, str(dim), *cells])
            print(f"{name} {dim}: {' and '.join(results)}", flush=True)
    print(markdown(["score", "D", "CPU s", "theirs", "wall s", "theirs"], rows))


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
