"""The file of clusters, from which a run resumes."""

import numpy as np
import pytest

from gan_jax.errors import UserError
from gan_jax.run.datasets import clusters


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full(20, -1, np.int32), "is damaged"),
        (np.full(20, np.nan), "is damaged"),
        (np.full(20, "a"), "is damaged"),
        (np.full(20, 2, np.int32), "clusters of other images"),
        (np.zeros(19, np.int32), "clusters of other images"),
    ],
)
def test_a_file_without_these_clusters_is_refused(label, message, tmp_path):
    np.savez(tmp_path / "clusters.npz", label=label)
    with pytest.raises(UserError, match=message):
        clusters.kept(tmp_path / "clusters.npz", np.zeros((20, 2, 2, 1), np.uint8), 2)
