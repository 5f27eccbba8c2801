"""The benchmark of the digits' quality: its files, its flags, its export."""

import dataclasses

import numpy as np
import pytest

from benchmarks import quality
from gan_jax.errors import UserError

DIGITS = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)


def test_the_first_images_of_a_file_are_compared(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a=b.npz", x=DIGITS)
    name, x = quality.load_samples(f"ours={tmp_path / 'a=b.npz'}", 3)
    assert name == "ours"
    np.testing.assert_array_equal(x, DIGITS[:3])
    monkeypatch.setenv("HOME", str(tmp_path))
    np.testing.assert_array_equal(quality.load_samples("ours=~/a=b.npz", 5)[1], DIGITS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no npz file with an array `x` .*No such file"),
        (b"", "no npz file with an array `x`"),
        (b"PK\3\4 and no more", "no npz file with an array `x`"),
        ({"y": DIGITS}, "no npz file with an array `x`"),
        ({"x": DIGITS.astype(np.float32)}, r"x must be uint8 .*got float32 \[5, 28, 28, 1\]"),
        ({"x": DIGITS[..., 0]}, r"x must be uint8 .*got uint8 \[5, 28, 28\]"),
        ({"x": DIGITS[:2]}, "has 2 images; --count 3 are compared"),
    ],
)
def test_another_file_is_refused_by_its_name(content, message, tmp_path):
    file = tmp_path / "a.npz"
    if isinstance(content, dict):
        np.savez_compressed(file, **content)
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file}.* ?{message}"):
        quality.load_samples(f"ours={file}", 3)


@pytest.mark.parametrize("argument", ["ours.npz", "=ours.npz", "ours="])
def test_an_argument_without_a_name_or_a_file_is_refused(argument):
    with pytest.raises(UserError, match=r"expected NAME=FILE\.npz, got"):
        quality.load_samples(argument, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 1}, "--count must be at least 2, got 1"),
        ({"held_out": 0}, "--held-out must be at least 2, got 0"),
        ({"bootstraps": -1}, "--bootstraps must be at least 0, got -1"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"export": "digits"}, "--export must end in .npz"),
        ({"export": "."}, "--export must end in .npz"),
    ],
)
def test_bad_flags_are_refused_before_any_work(settings, message, tmp_path):
    if "export" in settings:
        settings = {"export": tmp_path / settings["export"]}
    with pytest.raises(UserError, match=message):
        quality.main(dataclasses.replace(quality.Config(), **settings))


def test_a_folder_in_the_place_of_the_export_is_refused(tmp_path):
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(UserError, match=r"--export .*a\.npz is a folder: name a file"):
        quality.validate(quality.Config(export=tmp_path / "a.npz"))


def test_the_table_and_the_export(tmp_path, capsys, quick_compile):
    """Real digits are nearer to real digits than noise is."""
    np.savez_compressed(tmp_path / "noise.npz", x=np.tile(DIGITS, (20, 1, 1, 1)))
    config = quality.Config(
        samples=(f"noise={tmp_path / 'noise.npz'}",),
        count=100,
        bootstraps=2,
        export=tmp_path / "new" / "digits.npz",
    )
    real, noise, untrained = quality.main(config)
    assert (real.name, noise.name, untrained.name) == (
        "real training digits",
        "noise",
        "untrained generator",
    )
    assert real.num == noise.num == untrained.num == 100
    assert 0 < real.distance < min(noise.distance, untrained.distance)
    with np.load(tmp_path / "new" / "digits.npz") as file:
        assert file["x"].shape == (4000, 28, 28, 1)
    assert "| noise | 100 |" in capsys.readouterr().out
