"""Makes a folder of labelled colour images: Google's emoji, with a subfolder for each kind.

The images come from the npm package emoji-datasource-google (Cal Henderson, MIT licence; the images
have the Apache licence). `npm pack emoji-datasource-google` downloads its archive. The experiment
writes 9 subfolders to --out, with more than 3,700 images of 64 pixels on a white background. Then
`python -m experiments.images --data.dir emoji` trains on them. Existing images are not written
again.
"""

import dataclasses
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from gan_jax.errors import UserError
from gan_jax.run import cli

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
    found = Counter[str]()
    for kind, name, png in _images(config.package):
        _write(png, config.out / kind / name)
        found[kind] += 1
    print(f"{found.total()} images in {config.out}:", dict(found))
    return found


def _images(package: Path) -> Iterator[tuple[str, str, BytesIO]]:
    """Yields the kind, the file name and the file of each image."""
    try:
        with tarfile.open(package) as archive:
            kinds = _kinds(json.load(_read(archive, archive.getmember(_LIST))))
            # In the order of the archive, because a step back would decompress it from its start.
            for file in archive.getmembers():
                folder, _, name = file.name.rpartition("/")
                if folder == _IMAGES and name in kinds:
                    yield kinds[name], name, _read(archive, file)
    except (OSError, tarfile.TarError, KeyError) as error:
        raise UserError(
            f"--package {package} cannot be read, or is not the archive of "
            "emoji-datasource-google: download it with `npm pack emoji-datasource-google`"
        ) from error


def _kinds(listed: list[dict[str, Any]]) -> dict[str, str]:
    """Returns the kind of each image, by file name. An emoji may have images for skin colours."""
    return {
        each["image"]: emoji["category"].replace(" & ", "_and_").replace(" ", "_").lower()
        for emoji in listed
        for each in (emoji, *emoji.get("skin_variations", {}).values())
        if emoji["category"] != "Component"  # a swatch of a skin colour
    }


def _read(archive: tarfile.TarFile, file: tarfile.TarInfo) -> BytesIO:
    opened = archive.extractfile(file)
    return BytesIO(opened.read() if opened else b"")


def _write(png: BytesIO, path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(png).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        white.convert("RGB").save(path)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
