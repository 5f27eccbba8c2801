"""Scores on features: closed forms, figures of reference libraries, degenerate and wrong input.

`tests/parity/test_metrics_references.py` prints the stored figures, made by torch-fidelity 0.4.0
and prdc 0.2.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gan_jax.metrics.accuracy import classification_accuracy_score
from gan_jax.metrics.frechet import (
    Moments,
    frechet_distance,
    intra_class_frechet_distance,
    statistics,
)
from gan_jax.metrics.inception_score import classifier_score
from gan_jax.metrics.kernel import kernel_distance, squared_mmd
from gan_jax.metrics.manifolds import prdc
from gan_jax.metrics.parzen import choose_sigma, parzen_log_likelihood
from gan_jax.metrics.paths import path_length
from gan_jax.metrics.sliced import sliced_wasserstein
from gan_jax.metrics.two_sample import classifier_two_sample


def sets(n: int = 400, m: int = 300, dim: int = 8, dtype=np.float32):
    """Two sets of features whose means and widths differ, the same for every version of NumPy."""
    rng = np.random.RandomState(0)
    return rng.normal(size=(n, dim)).astype(dtype), rng.normal(0.3, 0.9, (m, dim)).astype(dtype)


FRECHET = 1.0235329578086034
KERNEL = (0.3998851299285889, 0.1287988855160211)
PRDC = (0.9633333333333334, 0.86, 1.0413333333333334, 0.865)
CLASSIFIER = (2.3086615333971756, 0.2135914618652493)

SCORES = {
    "frechet": frechet_distance,
    "kernel": lambda a, b: kernel_distance(a, b, jax.random.key(0), subsets=3, subset_size=50),
    "mmd": squared_mmd,
    "prdc": prdc,
    "sliced": lambda a, b: sliced_wasserstein(a, b, jax.random.key(0), projections=4),
    "parzen": lambda a, b: parzen_log_likelihood(a, b, 0.5),
    "classifier": lambda a, b: classifier_two_sample(a, b, jax.random.key(0)),
}


def test_the_figures_are_those_of_the_reference_libraries():
    a, b = sets()
    assert frechet_distance(a, b) == pytest.approx(FRECHET, rel=1e-4)
    found = kernel_distance(a, b, 2020, subsets=10, subset_size=100)
    assert found == pytest.approx(KERNEL, rel=1e-4)
    assert prdc(a, b) == PRDC
    assert prdc(a.astype(float), b.astype(float)) == PRDC
    logits = np.random.RandomState(1).normal(0, 3, (103, 5))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert classifier_score(probabilities, key=2020) == pytest.approx(CLASSIFIER, rel=1e-6)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_the_figure_does_not_depend_on_x64_mode_or_devices(score):
    a, b = sets(80, 64)
    expected = score(a, b)
    mesh = jax.make_mesh((8,), ("i",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
    assert score(jax.device_put(a, sharding), jax.device_put(b, sharding)) == expected
    with jax.enable_x64(True):
        assert score(jnp.asarray(a), jnp.asarray(b)) == expected


def test_batches_and_merged_parts_have_the_moments_of_the_whole():
    x = 1e3 + sets()[0]
    parts = [Moments().update(part[:7]).update(part[7:]) for part in np.split(x, [150, 160])]
    merged = Moments().merge(parts[0]).merge(parts[1].merge(parts[2])).merge(Moments())
    for found, expected in zip(merged.statistics(), statistics(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="at least 2 features, got 1"):
        Moments().update(x[:1]).statistics()
    with pytest.raises(ValueError, match="same dimensions D"):
        merged.update(np.ones((3, 2)))


def test_classes_have_distances_of_their_own():
    a, b = sets()
    label_a, label_b = np.arange(len(a)) % 2 * 3, np.arange(len(b)) % 2 * 3
    found = intra_class_frechet_distance(a, label_a, b, label_b)
    expected = [frechet_distance(a[i::2], b[i::2]) for i in (0, 1)]
    np.testing.assert_array_equal(found.distances, expected)
    assert list(found.classes) == [0, 3]
    assert found.distance == np.mean(expected)
    with pytest.raises(ValueError, match=r"b must have at least 2 features of each class.*\[3\]"):
        intra_class_frechet_distance(a, label_a, b, np.zeros(len(b), int))
    with pytest.raises(TypeError, match="a_labels must hold integers"):
        intra_class_frechet_distance(a, label_a / 2, b, label_b)


def test_identical_sets_are_at_distance_zero():
    a = sets()[0]
    assert frechet_distance(a, a) < 1e-10
    assert sliced_wasserstein(a, a, 0) == 0
    assert prdc(a, a)[:2] == (1, 1)
    assert prdc(a, a).coverage == 1
    assert squared_mmd(a, a) < 0  # unbiased: it leaves out the diagonal within, not between


def test_singular_covariances_and_constant_features():
    a, b = sets(20, 30, 64)  # fewer features than dimensions
    few = frechet_distance(a, b)
    padded = [np.concatenate([x, np.full((len(x), 3), 7.0)], axis=1) for x in (a, b)]
    assert frechet_distance(*padded) == pytest.approx(few, rel=1e-6)
    centred = [(x - x.mean(0, dtype=float)) / np.sqrt(len(x) - 1) for x in (a, b)]
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    means = a.mean(0, dtype=float) - b.mean(0, dtype=float)
    expected = means @ means + sum(np.sum(c**2) for c in centred) - 2 * root
    assert few == pytest.approx(expected, rel=1e-5)
    constant = np.ones((40, 3))
    assert frechet_distance(constant, 2 * constant) == pytest.approx(3)
    assert squared_mmd(constant, constant) == pytest.approx(0)
    assert prdc(constant, constant) == (0, 0, 0, 0)  # balls of radius 0 are empty
    assert sliced_wasserstein(constant, constant, 0) == 0


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (lambda x: np.where(x == x[3, 1], np.nan, x), ValueError, "finite, .* first row 3"),
        (lambda x: x[:1], ValueError, "must be points"),
        (lambda x: x[:, 0], ValueError, "must be points"),
        (lambda x: x[:, :5], ValueError, "must have the same dimensions D"),
        (lambda x: x.astype(complex), TypeError, "must be real numbers"),
        (lambda x: np.ma.masked_equal(x, x[3, 1]), ValueError, "has masked values"),
    ],
    ids=["nan", "one", "rank", "dimensions", "complex", "masked"],
)
def test_wrong_features_are_refused(score, spoil, error, match):
    a, b = sets(60, 60)
    if match == "must be points" and spoil(a).ndim == 2 and score is SCORES["sliced"]:
        pytest.skip("the distance of one point is defined")
    with pytest.raises(error, match=match):
        score(spoil(a), b)


def test_the_kernel_distance_has_a_closed_form():
    """For N(0, 1) against N(1/2, 1) the squared MMD is 3.578125."""
    rng = np.random.RandomState(0)
    x, y = rng.normal(size=(1500, 1)), rng.normal(0.5, 1, (1500, 1))
    found = kernel_distance(x, y, jax.random.key(0), subsets=60, subset_size=100)
    whole = squared_mmd(x, y)
    assert whole == pytest.approx(3.578125, abs=4 * found.error / math.sqrt(60))
    assert found.distance == pytest.approx(whole, abs=4 * found.error / math.sqrt(60))
    with pytest.raises(ValueError, match=r"subset_size must be .* got 7000 for 1500"):
        kernel_distance(x, y, 0, subset_size=7000)


def test_the_kernel_distance_of_large_features_does_not_overflow():
    """Products are near 1e16, and float32 holds numbers up to 3e38."""
    a, b = (1e8 * x.astype(np.float32) for x in sets())
    expected = squared_mmd(a.astype(float), b.astype(float))
    assert 1e40 < abs(expected) < np.inf
    assert squared_mmd(a, b) == pytest.approx(expected, rel=1e-4)


def test_coverage_has_the_mean_of_the_closed_form():
    rng, n, k = np.random.RandomState(0), 200, 3
    found = [prdc(*rng.normal(size=(2, n, 4)), k=k) for _ in range(40)]
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    for values, mean in (([f.coverage for f in found], expected), ([f.density for f in found], 1)):
        assert np.mean(values) == pytest.approx(mean, abs=4 * np.std(values) / math.sqrt(40))
    with pytest.raises(ValueError, match="k must be at least 1"):
        prdc(*rng.normal(size=(2, 9, 4)), k=0)


def test_blocks_do_not_change_a_figure(monkeypatch):
    a, b = sets()
    whole = prdc(a, b), squared_mmd(a, b), parzen_log_likelihood(a, b, 0.3)
    small = lambda rows, columns: (slice(i, min(i + 37, rows)) for i in range(0, rows, 37))  # noqa: E731
    monkeypatch.setattr("gan_jax.metrics.distances.blocks", small)
    monkeypatch.setattr("gan_jax.metrics.kernel.blocks", small)
    parts = prdc(a, b), squared_mmd(a, b), parzen_log_likelihood(a, b, 0.3)
    for part, expected in zip(parts, whole, strict=True):
        assert part == pytest.approx(expected, rel=1e-9)


def test_the_classifier_score_is_between_one_and_the_number_of_classes():
    assert classifier_score(np.tile(np.eye(4), (25, 1)), 5).mean == pytest.approx(4)
    assert classifier_score(np.full((30, 4), 0.25)) == pytest.approx((1, 0))
    with pytest.raises(ValueError, match="apply softmax"):
        classifier_score(np.ones((30, 4)))
    with pytest.raises(ValueError, match=r"splits must be from 1 to N = 30, got 31"):
        classifier_score(np.full((30, 4), 0.25), 31)


@pytest.mark.parametrize("m", [300, 123])
def test_on_a_line_the_sliced_distance_is_scipys(m):
    a, b = sets(300, m, 1)
    found = sliced_wasserstein(a, b, 0, projections=1, order=1)
    assert found == pytest.approx(stats.wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-6)


def test_a_shift_has_its_length_over_the_root_of_the_dimensions():
    a = sets()[0]
    found = sliced_wasserstein(a, a + np.float32([3, 4, 0, 0, 0, 0, 0, 0]), 0, projections=1000)
    assert found == pytest.approx(5 / math.sqrt(8), rel=0.06)


def test_parzen_windows_are_a_mixture_of_gaussians():
    samples, test = (x.astype(float) + 50 for x in sets(30, 20, 3))
    densities = [stats.multivariate_normal(s, 0.4**2).pdf(test) for s in samples]
    logs = np.log(np.mean(densities, axis=0))
    expected = logs.mean(), logs.std() / math.sqrt(20)
    assert parzen_log_likelihood(samples, test, 0.4) == pytest.approx(expected, rel=1e-9)
    means = [parzen_log_likelihood(samples, test, s).mean for s in (0.01, 0.4, 9.0)]
    assert choose_sigma(samples, test, [0.01, 0.4, 9.0]) == (0.01, 0.4, 9.0)[np.argmax(means)]
    assert math.isfinite(means[0])  # no window underflows
    with pytest.raises(ValueError, match="sigma must be above 0"):
        parzen_log_likelihood(samples, test, 0.0)


def test_the_classifier_test_is_exact_and_sees_widths():
    rng = np.random.RandomState(0)
    p = [
        classifier_two_sample(rng.normal(size=(30, 2)), rng.normal(size=(40, 2)), seed).p_value
        for seed in range(200)
    ]
    assert 0.01 < np.mean(np.array(p) <= 0.1) <= 0.17
    x = rng.normal(size=(1000, 2))
    found = classifier_two_sample(x, 0.5 * rng.normal(size=(1000, 2)), jax.random.key(0))
    assert found.accuracy > 0.65
    assert found.p_value < 1e-6
    with pytest.raises(ValueError, match="neighbours must be odd"):
        classifier_two_sample(x, x, 0, neighbours=4)


def test_the_accuracy_score_shows_a_lost_class():
    rng = np.random.RandomState(0)
    x, weights = rng.normal(size=(600, 6)), rng.normal(size=(6, 3))
    y = np.argmax(x @ weights + 0.1 * rng.normal(size=(600, 3)), axis=1)
    x[:, 5] = 2.0  # a constant feature
    train, test = slice(0, 400), slice(400, 600)
    found = classification_accuracy_score(x[train], y[train], x[test], y[test])
    assert found.accuracies.min() > 0.6
    lost = np.flatnonzero(y[train] != 1)
    found = classification_accuracy_score(x[lost], y[lost], x[test], y[test])
    assert found.accuracies[1] == 0
    with pytest.raises(ValueError, match=r"real_labels must be \[200\]"):
        classification_accuracy_score(x[train], y[train], x[test], y[train])


def test_the_path_length_of_a_linear_map_and_of_an_arc():
    rng = np.random.RandomState(0)
    start, end = rng.normal(size=(2, 400, 5))
    steps = np.sort(np.sum(((end - start) @ np.diag([1, 2, 3, 4, 5.0])) ** 2, axis=1))[3:-3]
    found = path_length(lambda z: z * np.arange(1, 6), start, end, 3, spherical=False)
    assert found == pytest.approx((steps.mean(), steps.std()), rel=1e-6)
    # Between orthogonal latents of norm 2, the arc has the length pi.
    start, end = 2 * np.eye(2)[[0] * 40], 2 * np.eye(2)[[1] * 40]
    assert path_length(lambda z: z, start, end).mean == pytest.approx(np.pi**2, rel=1e-6)
    assert path_length(lambda z: z, start, start) == pytest.approx((0, 0))
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        path_length(lambda z: z, start, end, epsilon=0)
