"""The folder of emoji."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from experiments import emoji
from gan_jax.errors import UserError

LISTED = [
    {"subcategory": "time", "image": "clock.png"},
    {
        "subcategory": "hand-prop",
        "image": "hand.png",
        "skin_variations": {"1F3FB": {"image": "hand-light.png"}},
    },
    {"subcategory": "person-role", "image": "cook.png"},
    {"subcategory": "face-costume", "image": "ghost.png"},
    {"subcategory": None, "image": "swatch.png"},
    {"image": "swatch-2.png"},
    {"subcategory": "heart", "image": "missing.png"},
]
NAMES = ("hand", "hand-light", "cook", "ghost", "swatch", "swatch-2")


def png(colour: tuple[int, int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGBA", (4, 4), colour).save(data, "png")
    return data.getvalue()


def archive(path, listed, images, vendor="google"):
    files = {"package/emoji.json": json.dumps(listed).encode()}
    files |= {f"package/img/{vendor}/{name}.png": data for name, data in images.items()}
    with tarfile.open(path, "w:gz") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return path


def package_of(path, vendor):
    images = {f"64/{name}": png((200, 0, 0, 255)) for name in NAMES}
    images |= {"64/clock": png((0, 0, 0, 0)), "32/clock": png((0, 0, 0, 255))}
    return archive(path, LISTED, images, vendor)


@pytest.fixture
def package(tmp_path):
    return package_of(tmp_path / "package.tgz", "google")


def test_a_folder_for_each_kind(package, tmp_path):
    out = tmp_path / "out"
    other = package_of(tmp_path / "other.tgz", "twitter")
    found = emoji.main(emoji.Config((package, other, package), out))
    assert found == {"clocks": 2, "hands": 4, "heads": 2}
    written = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert written == {
        f"{kind}/{vendor}-{name}.png"
        for kind, name in [
            ("clocks", "clock"),
            ("hands", "hand"),
            ("hands", "hand-light"),
            ("heads", "cook"),
        ]
        for vendor in ("google", "twitter")
    }
    image = Image.open(out / "clocks/google-clock.png")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, 255)  # what is transparent becomes white


def test_each_kind_has_a_subcategory_of_its_own():
    names = (
        "time face-hat family country-flag food-fruit hand-prop person heart person-sport "
        "geometric zodiac"
    )
    listed = [{"subcategory": name, "image": name} for name in names.split()]
    assert list(emoji._kinds(listed).values()) == list(emoji._KINDS)


def test_an_image_is_not_written_again(package, tmp_path):
    path = tmp_path / "clocks/google-clock.png"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    emoji.main(emoji.Config((package,), tmp_path))
    assert path.read_bytes() == b"mine"


def test_a_folder_with_other_images_is_refused(package, tmp_path):
    path = tmp_path / "out" / "people" / "hand.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"--out .* 1 other images, such as people.hand.png: use"):
        emoji.main(emoji.Config((package,), tmp_path / "out"))
    assert [*(tmp_path / "out").rglob("*.png")] == [path]


def test_no_package(tmp_path):
    with pytest.raises(UserError, match="--packages must name at least one archive"):
        emoji.main(emoji.Config((), tmp_path))


@pytest.mark.parametrize("damage", ["other", "cut", "no images", "no list", "broken image"])
def test_another_file_or_a_damaged_one(damage, package, tmp_path):
    data = package.read_bytes()
    if damage == "other":
        package.write_bytes(b"text")
    elif damage == "cut":
        package.write_bytes(data[: len(data) // 2])
    elif damage == "no images":
        archive(package, LISTED, {})
    elif damage == "no list":
        archive(package, {"a": 1}, {"64/clock": png((0, 0, 0, 0))})
    else:
        archive(package, LISTED, {"64/clock": png((0, 0, 0, 0))[:40]})
    with pytest.raises(UserError, match=r"--packages .*package.tgz .*npm pack"):
        emoji.main(emoji.Config((package,), tmp_path / "out"))
    assert not (tmp_path / "out").exists()
