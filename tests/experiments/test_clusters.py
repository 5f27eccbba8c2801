"""Clusters of similar images in the place of classes."""

import dataclasses
import json

import numpy as np
import pytest
from small_runs import assert_refused, config, digest, shared_compilations, write_idx

from experiments import mnist, sample
from gan_jax.errors import UserError
from gan_jax.run.commands import train
from gan_jax.run.datasets import clusters

KINDS = np.repeat(np.arange(3), (40, 20, 30))


def kinds():
    """Returns images [90, 8, 8, 1] of three kinds: a bright left, middle or right part."""
    x = np.random.default_rng(0).integers(0, 60, (90, 8, 8, 1))
    for i, kind in enumerate(KINDS):
        x[i, :, 3 * kind : 3 * kind + 2] += 180
    return x.astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory):
    with shared_compilations(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture
def settings(tmp_path):
    idx = write_idx(tmp_path / "idx", kinds()[..., 0])
    shape = {"conditional": "auto", "width": 8, "clusters": 3, "num_steps": 4, "sample_every": 4}
    return config(tmp_path / "run", idx, **shape, checkpoint_every=2, evaluate_every=0)


@pytest.mark.parametrize("most", [clusters.MOST, 60])
def test_clusters_are_the_kinds_of_images(most, monkeypatch):
    monkeypatch.setattr(clusters, "MOST", most)
    label = clusters.cluster(kinds(), 3)
    pairs = set(zip(label.tolist(), KINDS.tolist(), strict=True))
    assert len(pairs) == len(set(label.tolist())) == 3
    np.testing.assert_array_equal(label, clusters.cluster(kinds(), 3))


def test_a_run_keeps_its_clusters(settings, monkeypatch):
    whole = dataclasses.replace(settings, workdir=settings.workdir.with_name("whole"))
    state = mnist.main(whole)
    mnist.main(dataclasses.replace(settings, num_steps=2))
    monkeypatch.setattr(clusters, "cluster", lambda *_: pytest.fail("clustered again"))
    assert digest(mnist.main(settings)) == digest(state)
    found = json.loads((settings.workdir / "config.json").read_text())
    assert found["config"]["conditional"] == "projection"
    assert sorted(found["data"]["counts"]) == [20, 30, 40]
    assert json.loads((settings.workdir / "summary.json").read_text())["data"] == found["data"]

    out = settings.workdir.with_name("x.npz")
    sample.main(sample.Config(settings.workdir, out=out, num=90))
    counts = np.bincount(np.load(out)["label"])
    assert counts.tolist() == found["data"]["counts"]
    assert train.restore(settings.workdir).clustered

    (settings.workdir / "clusters.npz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"clusters\.npz cannot be read"):
        mnist.main(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clusters": 10}, "--clusters must be at least 2 and at most a tenth of the 90 images"),
        ({"clusters": 1}, "--clusters must be at least 2"),
        ({"conditional": "none"}, "--clusters 3 needs --conditional projection or another form"),
    ],
)
def test_clusters_that_cannot_be(changes, message, settings):
    assert_refused(mnist, dataclasses.replace(settings, **changes), message)


def test_classes_are_used_if_every_class_has_images(tmp_path, monkeypatch):
    """Checks `auto` without training: labels of two classes, of one class, and with a gap."""
    monkeypatch.setattr("gan_jax.run.images.train", lambda *_, conditional, **__: conditional)
    for name, labels, expected in (
        ("two", np.arange(90) % 2, True),
        ("one", np.zeros(90), False),
        ("gap", np.arange(90) % 2 * 2, False),
    ):
        idx = write_idx(tmp_path / name / "idx", kinds()[..., 0], labels.astype(np.uint8))
        settings = config(tmp_path / name / "run", idx, conditional="auto", width=8)
        assert mnist.main(settings) == expected
