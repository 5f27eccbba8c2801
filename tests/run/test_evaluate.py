"""The command that scores images: its scores, its record, its cache and its errors."""

import json

import numpy as np
import pytest

from gan_jax.data.types import Dataset
from gan_jax.errors import UserError
from gan_jax.metrics.frechet import frechet_distance
from gan_jax.run.commands.evaluate import Config, _share_known, main
from gan_jax.run.scoring import reference, scores
from gan_jax.run.scoring.reference import Images
from gan_jax.run.scoring.scores import Side, Sides, measure, two_halves


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def save(path, num, *, seed=0, shape=(4, 4, 1), **arrays):
    rng = np.random.default_rng(seed)
    np.savez(path, **{"x": rng.integers(0, 256, (num, *shape), dtype=np.uint8), **arrays})
    return path


@pytest.fixture
def files(tmp_path):
    return {
        "images": save(tmp_path / "fake.npz", 20),
        "reference": str(save(tmp_path / "real.npz", 30, seed=1)),
    }


def pixels(tmp_path, files, **settings):
    settings = {"extractor": "pixels", "out": tmp_path / "out", "resamplings": 2, **settings}
    return main(Config(**{**files, **settings}))


def test_a_score_comes_with_its_spread_its_floor_and_its_protocol(tmp_path, files, capsys):
    record = pixels(tmp_path, files, metrics=("frechet", "prdc"))
    with np.load(files["images"]) as fake, np.load(files["reference"]) as real:
        x, y = (file["x"].reshape(-1, 16).astype(np.float32) / 255 for file in (fake, real))
    score = record["scores"]["frechet"]
    assert score["value"] == pytest.approx(frechet_distance(x, y), rel=1e-5)
    halves = map(y.__getitem__, two_halves(30, None, np.random.default_rng(0)))
    assert score["real_to_real"] == pytest.approx(frechet_distance(*halves), rel=1e-5)
    assert score["spread"] > 0
    assert set(record["scores"]) == {"frechet", "precision", "recall", "density", "coverage"}
    assert record["samples"]["num"] == 20
    assert record["reference"]["num"] == 30
    assert record["extractor"] == {"name": "pixels 4x4 grey", "features": 16}
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == record
    assert (tmp_path / "out" / "neighbours.png").exists()
    assert "| frechet |" in capsys.readouterr().out


def test_a_second_evaluation_is_equal_and_keeps_the_first(tmp_path, files, monkeypatch):
    first = pixels(tmp_path, files, metrics=("frechet", "kernel"))
    monkeypatch.setattr(reference, "_stored", lambda file: None)  # as without a cache
    assert pixels(tmp_path, files, metrics=("frechet", "kernel")) == first
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["evaluation-2.json", "evaluation.json", "neighbours-2.png", "neighbours.png"]


def test_too_few_images_for_the_frechet_distance_are_named_before_it_is_computed(
    tmp_path, files, capsys, monkeypatch
):
    def stop(*arguments, **settings):
        raise UserError("computing")

    monkeypatch.setattr(scores, "measure", stop)
    for metric, images, warned in [
        ("frechet", 16, True),
        ("frechet", 17, False),
        ("prdc", 16, False),
    ]:
        with pytest.raises(UserError, match="computing"):
            pixels(tmp_path, files, num=images, metrics=(metric,))
        assert ("16 images are not more than the 16 features" in capsys.readouterr().err) == warned


def test_images_have_the_digest_that_their_run_records():
    x, label = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1), np.arange(2, dtype=np.int32)
    for classes in (label, None):
        assert Images(x, classes, "", "").sha256 == Dataset(x, classes, "", "", x).sha256


def test_features_are_kept_and_computed_again_if_damaged(tmp_path):
    images = Images(np.zeros((3, 2, 2, 1), np.uint8), None, "", "")
    calls = []

    def compute():
        calls.append(1)
        return np.eye(3, dtype=np.float32)

    def found(images=images, extractor="a", use=True):
        return reference.cached(images, extractor, "features", compute, use=use)

    for _ in range(2):
        np.testing.assert_array_equal(found(), np.eye(3))
    assert len(calls) == 1
    (file,) = reference.cache_folder().iterdir()
    for damage in (lambda content: content[:-1] + b"x", lambda content: content[:9], lambda _: b""):
        file.write_bytes(damage(file.read_bytes()))
        np.testing.assert_array_equal(found(), np.eye(3))
    assert len(calls) == 4
    found(images._replace(label=np.arange(3)))  # no feature depends on labels
    assert len(calls) == 4
    found(images._replace(x=images.x + 1))
    found(extractor="b")
    found(use=False)
    assert len(calls) == 7


def test_the_spread_is_the_standard_error_over_draws_of_the_data():
    rng = np.random.default_rng(0)

    def score(resamplings):
        fake, real = (Side(rng.normal(mean, 1, (400, 2)).astype(np.float32)) for mean in (1, 0))
        sides = Sides(fake, real)
        (found,) = measure(["frechet"], sides, sides, resamplings=resamplings)
        return found

    true = np.std([score(0).value for _ in range(200)])
    assert np.mean([score(20).spread for _ in range(10)]) == pytest.approx(true, rel=0.25)


def test_the_display_counts_a_part_for_each_score_that_is_computed(capsys):
    """Both metrics have two halves. Only `frechet` has a score of real images."""
    draw = np.random.default_rng(0).normal
    side = Side(draw(size=(20, 2)).astype(np.float32), distance=np.ones(20, np.float32))
    measure(["frechet", "memorisation"], Sides(side, side), Sides(side, side), resamplings=2)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "scores: part 0/7  frechet"
    assert last.startswith("scores: part 7/7 ")


def test_labels_are_compared_with_those_that_the_classifier_sees():
    label = np.repeat(np.arange(4), 10).astype(np.int32)
    features = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    side = Side(features, np.eye(4, dtype=np.float32)[label], np.roll(label, 10))
    sides = Sides(side, side._replace(label=label))
    (found,) = measure(["label_agreement"], sides, sides._replace(fake=sides.real), resamplings=0)
    assert (found.value, found.floor, found.spread) == (0, 1, None)


def test_classes_that_alternate_have_a_floor_and_are_in_every_half(tmp_path):
    label = (np.arange(100) % 10).astype(np.int32)
    x = (label * 25)[:, None, None, None] + np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
    archive = save(tmp_path / "x.npz", 100, x=x.astype(np.uint8), label=label)
    files = {"images": archive, "reference": str(archive)}
    for seed in range(5):
        scores = pixels(tmp_path, files, metrics=("intra_class",), resamplings=9, seed=seed)[
            "scores"
        ]
        assert scores["intra_class_frechet"]["real_to_real"] == pytest.approx(0, abs=1e-6)
    few = measure(["intra_class"], _sides(label, label), _sides(label, label[:-1]), resamplings=0)
    assert few[0].floor is not None
    few = measure(["intra_class"], _sides(label, label), _sides(label, label[:9]), resamplings=0)
    assert few[0].floor is None


def _sides(*labels):
    draw = np.random.default_rng(0).normal
    return Sides(*(Side(draw(size=(len(label), 2)), label=label) for label in labels))


def test_images_that_were_trained_on_are_no_new_reference():
    x = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
    training = Images(x, None, "", "")
    assert _share_known(training._replace(x=x[:5]), training) == 1
    assert _share_known(training._replace(x=x + 2), training) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": None}, "either --run or --images"),
        ({"run": "x"}, "either --run or --images"),
        ({"best": True}, "--best chooses a checkpoint of --run"),
        ({"reference": None}, "--images needs --reference"),
        ({"metrics": ("fid",)}, "--metrics fid is none of frechet, kernel"),
        ({"metrics": ("kernal",)}, "two_sample: did you mean kernel"),
        ({"num": 21}, "--num 21 is more than the 20 images"),
        ({"num": 0}, "--num must be at least 1"),
        ({"num": 5, "metrics": ("prdc",)}, "--num: 5 images are too few for prdc, which needs 12"),
        ({"extractor": None}, "there is no extractor made for .*4x4 grey.*--extractor"),
        ({"extractor": "digits"}, "--extractor digits takes 28x28 grey images, got 4x4 grey"),
        ({"extractor": "inception"}, "needs --inception-weights"),
        ({"metrics": ("label_agreement",)}, "--metrics label_agreement needs"),
        ({"metrics": ("memorisation",)}, "needs a run with training images"),
        ({"reference": "/no/where"}, "--reference /no/where does not exist"),
        ({"reference": "EMPTY"}, "--reference .* has no image below it"),
        ({"reference": "SMALL"}, "its images are 3x3 grey, but the images to score are 4x4 grey"),
        ({"reference": "NAN"}, "1 of 2 images hold NaN or infinity"),
        ({"reference": "WIDE"}, r"floats must be in \[-1, 1\], got 0 to 255"),
    ],
)
def test_bad_input_names_the_flag_and_the_remedy(tmp_path, files, settings, message):
    (tmp_path / "empty").mkdir()
    x = np.zeros((2, 4, 4, 1))
    x[0, 0] = np.nan
    known = {
        "EMPTY": tmp_path / "empty",
        "SMALL": save(tmp_path / "small.npz", 30, shape=(3, 3, 1)),
        "NAN": save(tmp_path / "nan.npz", 2, x=x),
        "WIDE": save(tmp_path / "wide.npz", 2, x=np.nan_to_num(x, nan=255.0)),
    }
    if settings.get("reference") in known:
        settings = {"reference": str(known[settings["reference"]])}
    with pytest.raises(UserError, match=message):
        pixels(tmp_path, files, **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_conditional_run_is_scored_by_its_newest_checkpoint_alike_in_any_precision(tmp_path):
    """In x64 mode too, and with the images that `gan-jax sample` draws."""
    import jax

    from gan_jax.run import datasets
    from gan_jax.run.commands import sample, train

    data = datasets.Config(source="embedded", held_out=1000)
    cadence = {"num_steps": 2, "log_every": 1, "sample_every": 1, "checkpoint_every": 1}
    run = tmp_path / "run"
    train.main(train.Config(run, conditional="projection", width=2, data=data, **cadence))
    settings = {"num": 200, "resamplings": 2}
    record = main(Config(run=run, **settings))
    assert record["samples"]["step"] == 2
    assert record["reference"]["images"] == "held-out images of mnist"
    assert {"label_agreement", "intra_class_frechet", "memorisation"} <= set(record["scores"])
    assert record["scores"]["label_agreement"]["real_to_real"] > 0.95
    archive = tmp_path / "samples.npz"
    sample.main(sample.Config(run, archive, num=200))
    with jax.enable_x64(True):
        assert main(Config(run=run, **settings))["scores"] == record["scores"]
    held_out = datasets.load(data)
    np.savez(tmp_path / "held_out.npz", x=held_out.held_out, label=held_out.held_out_label)
    reference = str(tmp_path / "held_out.npz")
    again = main(
        Config(images=archive, reference=reference, extractor="digits", out=run, **settings)
    )
    for name in ("frechet", "coverage", "intra_class_frechet"):
        assert again["scores"][name]["value"] == record["scores"][name]["value"]
    with pytest.raises(UserError, match="fid is none of"):
        main(Config(run=run, metrics=("fid",)))
