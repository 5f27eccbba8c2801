"""Evaluation during training: its figures, and the best checkpoint."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from small_runs import compiled_in_a_hurry, config, write_idx

from experiments import mnist
from gan_jax.data.types import Dataset
from gan_jax.errors import UserError
from gan_jax.metrics import digits
from gan_jax.run import evaluation
from gan_jax.run.checkpoint import Checkpoints, saved_steps
from gan_jax.run.commands import evaluate, sample, train


def test_the_number_of_distinct_points_is_counted():
    points = np.repeat(np.eye(5, dtype=np.float32), 20, axis=0)
    assert evaluation.effective_number(points, 0.1) == pytest.approx(5)
    assert evaluation.effective_number(points[:20], 0.1) == pytest.approx(1)
    assert evaluation.effective_number(points, 0.0) == 5
    assert evaluation.typical_distance(np.array([[0.0], [3.0], [4.0], [6.0]])) == pytest.approx(
        2.5**0.5
    )


def test_above_is_the_probability_of_a_larger_number():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0])
    assert evaluation.above(a, b) == pytest.approx((1 + 1.5 + 2) / 6)
    assert evaluation.above(a, np.array([np.nan])) is None


def test_pixels_are_averaged_over_parts_of_any_size():
    x = np.random.default_rng(0).integers(0, 256, (3, 9, 17, 3), np.uint8)
    features = evaluation.pooled(8).features(x).reshape(3, 8, 8, 3)
    np.testing.assert_allclose(features[:, 7, 7], x[:, 7:, 14:].mean(axis=(1, 2)) / 255, rtol=1e-6)
    np.testing.assert_allclose(features[:, 0, 0], x[:, :1, :2].mean(axis=(1, 2)) / 255, rtol=1e-6)
    assert evaluation.pooled(8).features(x[:, :5, :5]).shape == (3, 75)


def test_the_extractor_follows_the_images():
    def extractor(shape, name):
        x = np.zeros((1, *shape), np.uint8)
        return evaluation.default_extractor(Dataset(x, None, name, "idx", x))

    assert extractor((28, 28, 1), "mnist").name == digits.EXTRACTOR
    assert extractor((28, 28, 1), "mnist").probabilities is not None
    assert extractor((28, 28, 1), "clothes").probabilities is None
    assert extractor((32, 32, 3), "mnist").name == "pixels averaged to 8x8"


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_beside_the_newest_drawn_from_and_scored(tmp_path, capsys):
    """The learning rate is so high that the run gets worse at some step."""
    changes = {"evaluate_every": 2, "keep_checkpoints": 1, "num_steps": 10, "generator_lr": 0.03}
    settings = config(tmp_path / "run", write_idx(tmp_path / "idx"), **changes)
    with compiled_in_a_hurry():
        mnist.main(settings)
        said = capsys.readouterr().out
        summary = json.loads((settings.workdir / "summary.json").read_text())
        lines = (settings.workdir / "metrics.jsonl").read_text().splitlines()
        scores = {r["step"]: r["frechet_distance"] for r in map(json.loads, lines)}
        assert scores.keys() == {2, 4, 6, 8, 10}
        best = min(scores, key=scores.__getitem__)
        assert best < 10
        assert summary["best"] == {"step": best, "frechet_distance": scores[best]}
        assert summary["evaluation"]["reference"] == "40 training images"
        assert saved_steps(settings.workdir / "checkpoints") == [best, 10]
        assert f"FD {scores[10]:.3g}" in said
        assert train.restore(settings.workdir, best=True).step == best
        options = {"run": settings.workdir, "out": tmp_path / "x.npz", "num": 4, "best": True}
        sample.main(sample.Config(**options))
        assert f"4 samples of step {best}:" in capsys.readouterr().out
        task = {"extractor": "pixels", "metrics": ("kernel",), "num": 20, "resamplings": 0}
        for chosen, step, name in [(True, best, "lowest Fréchet distance"), (False, 10, "newest")]:
            record = evaluate.main(evaluate.Config(settings.workdir, best=chosen, **task))
            assert (record["samples"]["step"], record["samples"]["checkpoint"]) == (step, name)
    shutil.rmtree(settings.workdir / "checkpoints" / str(best))
    (settings.workdir / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no checkpoint with a Fréchet distance"):
        sample.main(sample.Config(**{**options, "overwrite": True}))


def test_a_protected_checkpoint_outlives_newer_ones_until_another_is_protected(tmp_path):
    state = {"x": np.zeros(2)}
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in range(1, 7):
        if step in (2, 6):
            checkpoints.protect(step)
        checkpoints.save(step, state)
        assert checkpoints.has(step)
        if step == 5:
            checkpoints.wait()
            assert checkpoints.steps == [2, 4, 5]
    checkpoints.wait()
    assert checkpoints.steps == [5, 6]
    assert checkpoints.restore(state, only=5)[0] == 5
    checkpoints.close()


def test_a_wrong_interval_is_refused(tmp_path):
    settings = dataclasses.replace(mnist.Config(workdir=tmp_path / "run"), evaluate_every=-1)
    with pytest.raises(UserError, match="--evaluate-every must be at least 0, got -1"):
        mnist.check(settings)
