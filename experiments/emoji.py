"""Makes a folder of labelled colour images: Google's emoji, with a subfolder for each kind.

The images come from the npm package emoji-datasource-google (Cal Henderson, MIT licence; the images
have the Apache licence). `npm pack emoji-datasource-google` downloads its archive. The experiment
writes 9 subfolders to --out, with more than 3,700 images of 64 pixels on a white background. Then
`python -m experiments.images --data.dir emoji` trains on them. Existing images are not written
again.
"""

import dataclasses
import json
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

from PIL import Image

from gan_jax.errors import UserError
from gan_jax.run import cli
from gan_jax.run.files import whole

_IMAGES = "package/img/google/64"
_LIST = "package/emoji.json"


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the images come from, and where they go."""

    package: Path
    """The archive of the npm package: emoji-datasource-google-16.0.0.tgz or another version."""
    out: Path = Path("emoji")
    """Folder for the images. It is made if it does not exist."""


def main(config: Config) -> Counter[str]:
    """Writes the images. Returns the number of images of each kind, and prints it."""
    cli.check_folder("out", config.out)
    found = Counter[str]()
    for kind, name, image in _read(config.package):
        path = config.out / kind / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as file:
                image.save(file, "png")
        found[kind] += 1
    print(f"{found.total()} images in {config.out}:", dict(found))
    return found


def _read(package: Path) -> list[tuple[str, str, Image.Image]]:
    """Returns the kind, the file name and the image of each emoji."""
    try:
        with tarfile.open(package) as archive:
            listed = archive.extractfile(_LIST)
            assert listed is not None
            kinds = _kinds(json.load(listed))
            # Files are read in their order, because a compressed archive is slow backwards.
            files = [file for file in archive.getmembers() if file.isfile()]
            names = [(file, *file.name.rpartition("/")[::2]) for file in files]
            found = [
                (kinds[name], name, _on_white(archive.extractfile(file)))
                for file, folder, name in names
                if folder == _IMAGES and name in kinds
            ]
        assert found
    except Exception as error:  # a damaged archive can raise nearly any
        raise UserError(
            f"--package {package} cannot be read, or is not the archive of "
            "emoji-datasource-google: download it with `npm pack emoji-datasource-google`"
        ) from error
    return found


def _kinds(listed: list[dict[str, Any]]) -> dict[str, str]:
    """Returns the kind of each image, by file name. An emoji may have images for skin colours."""
    return {
        each["image"]: "_".join(re.findall("[a-z]+", emoji["category"].replace("&", "and").lower()))
        for emoji in listed
        for each in (emoji, *emoji.get("skin_variations", {}).values())
        if emoji["category"] != "Component"  # a swatch of a skin colour
    }


def _on_white(png: IO[bytes] | None) -> Image.Image:
    assert png is not None
    image = Image.open(png).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
