"""Scores beside their reference libraries. `pytest -s` prints the figures that
`tests/core/test_metrics_scores.py` stores.

torch-fidelity 0.4.0 and prdc 0.2 need an environment of their own:
`pip install --no-deps torch-fidelity prdc`, with torch, torchvision and tqdm.
"""

import numpy as np
import pytest

from gan_jax.metrics.accuracy import classification_accuracy_score
from gan_jax.metrics.frechet import frechet_distance
from gan_jax.metrics.inception_score import classifier_score
from gan_jax.metrics.kernel import kernel_distance
from gan_jax.metrics.manifolds import prdc
from gan_jax.metrics.parzen import parzen_log_likelihood


def features(n: int, m: int, dim: int, dtype=np.float32):
    rng = np.random.RandomState(0)
    return rng.normal(size=(n, dim)).astype(dtype), rng.normal(0.3, 0.9, (m, dim)).astype(dtype)


def reference_frechet(a, b):
    torch = pytest.importorskip("torch")
    fid = pytest.importorskip("torch_fidelity.metric_fid", exc_type=ImportError)
    pair = (fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b))
    return fid.fid_statistics_to_metric(*pair, False)["frechet_inception_distance"]


def reference_kernel(a, b, **options):
    torch = pytest.importorskip("torch")
    kid = pytest.importorskip("torch_fidelity.metric_kid", exc_type=ImportError)
    a, b = torch.from_numpy(a), torch.from_numpy(b)
    found = kid.kid_features_to_metric(a, b, rng_seed=2020, verbose=False, **options)
    return tuple(found.values())


SHAPES = [
    (400, 300, 8),
    pytest.param(10_000, 10_000, 64, marks=pytest.mark.slow),
    pytest.param(10_000, 10_000, 2048, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("n", "m", "dim"), SHAPES)
def test_frechet_and_kernel_distances_are_torch_fidelitys(n, m, dim):
    a, b = features(n, m, dim)
    expected = reference_frechet(a, b)
    print("frechet", n, dim, expected)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    size = min(1000, n // 4)
    # In float32, torch-fidelity loses digits of small spreads.
    expected = reference_kernel(
        a.astype(float), b.astype(float), kid_subsets=10, kid_subset_size=size
    )
    print("kernel", n, dim, expected)
    found = kernel_distance(a, b, 2020, subsets=10, subset_size=size)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "m", "dim"), SHAPES[:2])
def test_prdc_is_that_of_the_package(n, m, dim, dtype):
    package = pytest.importorskip("prdc")
    a, b = features(n, m, dim, dtype)
    expected = tuple(float(x) for x in package.compute_prdc(a, b, 5).values())
    print("prdc", n, dim, dtype.__name__, expected)
    assert prdc(a, b) == expected


def test_the_classifier_score_is_torch_fidelitys():
    torch = pytest.importorskip("torch")
    isc = pytest.importorskip("torch_fidelity.metric_isc", exc_type=ImportError)
    logits = torch.from_numpy(np.random.RandomState(1).normal(0, 3, (103, 5)))
    expected = tuple(isc.isc_features_to_metric(logits).values())
    print("classifier", expected)
    found = classifier_score(logits.softmax(1).numpy(), key=2020)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sigma", [0.1, 0.2, 1.0])
def test_parzen_windows_are_scikit_learns(sigma):
    """With `leaf_size` above N. With scikit-learn's default, 40, its tree loses the logarithms of
    small densities: for 784 pixels and sigma 0.2 it is wrong by hundreds of nats."""
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.RandomState(0)
    samples, test = rng.uniform(size=(300, 784)), rng.uniform(size=(100, 784))
    model = neighbors.KernelDensity(bandwidth=sigma, leaf_size=1000).fit(samples)
    found = parzen_log_likelihood(samples, test, sigma)
    assert found.mean == pytest.approx(model.score_samples(test).mean(), abs=1e-4)


def test_the_accuracy_score_is_that_of_scikit_learns_logistic_regression():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.RandomState(0)
    x, weights = rng.normal(size=(3000, 6)), rng.normal(size=(6, 3))
    y = np.argmax(x @ weights + rng.normal(size=(3000, 3)), axis=1)
    train, test = slice(0, 400), slice(400, 3000)
    scaled = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    model = linear_model.LogisticRegression(tol=1e-8, max_iter=1000).fit(scaled[train], y[train])
    found = classification_accuracy_score(x[train], y[train], x[test], y[test])
    assert found.accuracy == model.score(scaled[test], y[test])
