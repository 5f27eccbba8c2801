"""Small runs of the table of Parzen-window log-likelihoods."""

import dataclasses
import json

import numpy as np
import pytest
from small_runs import assert_refused, compiled_in_a_hurry, config, write_idx

from experiments import image_ways, mnist, parzen_table
from experiments.image_ways import Way
from gan_jax.metrics.parzen import parzen_log_likelihood
from gan_jax.run import datasets
from gan_jax.run.commands import train

SMALL = {"mlp": Way("a small GAN", {"model": "mlp", "width": 8, "latent": 4, "batch_size": 8})}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(parzen_table, "WAYS", SMALL)
    monkeypatch.setattr(image_ways, "LEAST", 20)
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8)
    data = datasets.Config(source="idx", dir=write_idx(tmp_path / "idx", images), held_out=20)
    return parzen_table.Config(
        workdir=tmp_path / "run",
        ways=tuple(SMALL),
        num_steps=2,
        num_samples=30,
        real=(10, 40, 1000),
        data=data,
    )


@pytest.mark.slow
def test_a_small_table_and_a_resumed_one(settings, tmp_path, monkeypatch):
    with compiled_in_a_hurry():
        other = config(tmp_path / "other", settings.data.dir, num_steps=2)
        mnist.main(dataclasses.replace(other, data=settings.data))
        settings = dataclasses.replace(settings, run=(tmp_path / "other",))
        summary = parzen_table.main(settings)
    rows = summary["rows"]
    real, centroids = "real training images", "k-means centroids of all 60"
    assert [(row["title"], row["windows"]) for row in rows] == [
        ("a small GAN", 30),
        ("other", 30),
        (real, 10),
        (real, 40),
        (real, 60),
        (centroids, 10),
        (centroids, 20),
    ]
    text = (settings.workdir / "table.md").read_text()
    first = rows[0]
    assert f"| a small GAN | {first['mean']:.1f} ± {first['error']:.1f} | 30 |" in text
    assert "| GAN, published | 225 ± 2 | 10,000 |" in text
    assert parzen_table.CAVEAT in text
    assert json.loads((settings.workdir / "summary.json").read_text()) == summary

    (settings.workdir / "summary.json").unlink()
    monkeypatch.setattr(train, "main", None)
    monkeypatch.setattr(parzen_table, "centroids", None)
    assert parzen_table.main(settings)["rows"] == rows


def test_a_score_is_that_of_pixels_in_the_unit_cube():
    rng = np.random.default_rng(0)
    x, validation, test = (rng.integers(0, 256, (n, 4, 4, 1), dtype=np.uint8) for n in (9, 5, 6))
    found = parzen_table.score(x, validation=validation, test=test)
    expected = parzen_log_likelihood(
        x.reshape(9, 16) / 255, test.reshape(6, 16) / 255, found["sigma"]
    )
    assert found["mean"] == pytest.approx(expected.mean, abs=1e-5)
    assert found["error"] == pytest.approx(expected.error, abs=1e-5)
    assert found["windows"] == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": ("vae",)}, "--ways vae is none of mlp"),
        ({"real": (1,)}, "--real must name numbers of images of at least 2"),
        ({"data": datasets.Config(held_out=0)}, "--data.held-out must be at least 4, got 0"),
    ],
)
def test_settings_that_cannot_be(changes, message, settings):
    assert_refused(parzen_table, dataclasses.replace(settings, **changes), message)
