"""Clusters of similar images, which can take the place of classes if images have no labels.

A GAN whose generator and discriminator know the cluster of each image mixes fewer kinds of images
(Liu et al. 2020, "Diverse image generation via self-conditioned GANs"). The clusters are made once,
before training.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gan_jax.errors import UserError
from gan_jax.run.files import whole

MOST = 10_000
"""Images that are clustered together. Further images join the cluster of the nearest of these."""
_COMPONENTS = 40
_NEIGHBOURS = 8


def cluster(x: NDArray[np.uint8], num: int) -> NDArray[np.int32]:
    """Returns the number of each image's cluster, int32 [N] in [0, num).

    The clusters are those of a graph that joins each image with its eight nearest ones (spectral
    clustering, Ng et al. 2001, with the assignment of Damle et al. 2019). Images that differ much
    can be in one cluster if images between them lead from one to the other. Distances are those of
    the 40 principal components of the pixels.

    Args:
      x: [N, H, W, C], the images.
      num: number of clusters, at least 2 and at most a tenth of N.

    Raises:
      UserError: `num` is out of range.
    """
    from sklearn.cluster import SpectralClustering
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier

    if not 2 <= num <= len(x) // 10:
        raise UserError(
            f"--clusters must be at least 2 and at most a tenth of the {len(x):,} images, got {num}"
        )
    chosen = np.random.default_rng(0).permutation(len(x))[:MOST]
    pixels = x.reshape(len(x), -1).astype(np.float32) / 255
    components = min(_COMPONENTS, pixels.shape[1], len(chosen) - 1)
    pca = PCA(components, svd_solver="randomized", random_state=0).fit(pixels[chosen])
    points = pca.transform(pixels)
    with warnings.catch_warnings():
        # A graph in several parts is no fault: each part then has clusters of its own.
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        labels = SpectralClustering(
            num,
            affinity="nearest_neighbors",
            n_neighbors=_NEIGHBOURS,
            assign_labels="cluster_qr",
            random_state=0,
        ).fit_predict(points[chosen])
    nearest = KNeighborsClassifier(1).fit(points[chosen], labels)
    return nearest.predict(points).astype(np.int32)


def kept(file: Path, x: NDArray[np.uint8], num: int) -> NDArray[np.int32]:
    """Returns the clusters that a file holds, or makes them if there is no such file.

    A run resumes with the clusters that it began with, on any machine.

    Raises:
      UserError: the file is damaged, or holds the clusters of other images.
    """
    if not file.exists():
        return cluster(x, num)
    try:
        with np.load(file) as arrays:
            labels = arrays["label"]
    except Exception as error:  # NumPy raises exceptions of many kinds for a damaged file
        raise UserError(f"{file} cannot be read ({error}): the run in its folder is lost") from None
    if labels.dtype != np.int32 or labels.min(initial=0) < 0:
        raise UserError(f"{file} is damaged: the run in its folder is lost")
    if labels.shape != (len(x),) or labels.max(initial=0) >= num:
        raise UserError(f"{file} holds the clusters of other images: choose another --workdir")
    return labels


def keep(file: Path, labels: NDArray[np.int32]) -> None:
    """Writes the clusters to a file, unless it exists."""
    if not file.exists():
        with whole(file) as opened:
            np.savez_compressed(opened, label=labels)
