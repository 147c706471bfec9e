"""Gather photographs under free licences from packages, for examples/efficientnet_lite0.py.

    python tools/photographs.py runs/photographs

Each package becomes a sub-folder. Installed Python packages give the photographs that they bring as sample data:
scikit-image, scikit-learn, matplotlib. Where there is apt, three of Debian's packages are downloaded and unpacked, not
installed: wallpapers, and stamps for children's drawings, which are animals, vehicles, instruments and fruit cut out of
photographs; here they lie on white. They stay on this machine, and ``LICENCES`` in the folder says whose they are.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

INSTALLED = {  # of each package: where in it the photographs are, which, and whose
    "skimage": (
        "data",
        ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
        "public domain and CC0, see the documentation of skimage.data",
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg"), "CC-BY 2.0, see README.txt beside them"),
    "matplotlib": ("mpl-data/sample_data", ("grace_hopper.jpg",), "public domain, a work of the US Navy"),
}
DEBIAN = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "tuxpaint-stamps-default")
# Drawn, or nothing but a pattern; and mirrored or further views of what is there already.
NOT_PHOTOGRAPHS = (
    "cartoon", "symbols", "flags", "space/", "medical", "seasonal", "roadsigns", "analogpattern", "umang", "warty",
    "Infinite-Sea", "Painting-Colors", "hedgehog", "button", "feathered_hat", "sombrero", "pizza", "lightningbolt",
    "eye.png", "explosion", "fire.png", "_mirror", "gnu-baby-stand", "pig_golden2", "fireman200b", "fireman240a",
)  # fmt: skip
FEWEST_BYTES = 20_000  # smaller stamps are drawings, most of them


def copy_photographs(files: Iterable[Path], folder: Path, side: int = 512) -> int:
    """Write photographs as JPEG, at most ``side`` pixels high and wide, what is transparent in white; says how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for path in files:
        with Image.open(path) as image:
            image.draft("RGB", (side, side))  # JPEG is decoded smaller, which is faster
            image.thumbnail((2 * side, 2 * side))
            colours = image.convert("RGBA")
        page = Image.new("RGBA", colours.size, "white")
        page.alpha_composite(colours)
        page.thumbnail((side, side))
        page.convert("RGB").save(folder / f"{path.stem}.jpg", quality=95)
        count += 1
    return count


def from_installed(out: Path) -> list[str]:
    """Copy what installed Python packages bring."""
    told = []
    for package, (place, names, whose) in INSTALLED.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        folder = Path(spec.submodule_search_locations[0]) / place
        files = [folder / name for name in names if (folder / name).exists()]
        told.append(f"{package}: {copy_photographs(files, out / package)} photographs, {whose}")
    return told


def from_debian(out: Path) -> list[str]:
    """Copy what Debian's packages bring, which are downloaded and unpacked, not installed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return []
    told = []
    with tempfile.TemporaryDirectory() as temporary:
        for package in DEBIAN:
            got = subprocess.run(["apt-get", "download", package], cwd=temporary, capture_output=True, text=True)
            archives = sorted(Path(temporary).glob(f"{package}_*.deb"))
            if not archives:
                told.append(f"{package}: none, it could not be downloaded: {got.stderr.strip()}")
                continue
            unpacked = Path(temporary) / package
            subprocess.run(["dpkg-deb", "-x", archives[0], unpacked], check=True)
            files = sorted(
                path
                for path in unpacked.rglob("*")
                if path.suffix in (".jpg", ".png")
                and path.stat().st_size >= FEWEST_BYTES
                and not any(word in path.as_posix() for word in NOT_PHOTOGRAPHS)
            )
            count = copy_photographs(files, out / package)
            shutil.copy(unpacked / "usr/share/doc" / package / "copyright", out / f"{package}.copyright")
            told.append(f"{package}: {count} photographs, see {package}.copyright")
    return told


if __name__ == "__main__":
    out = Path(sys.argv[1])
    told = from_installed(out) + from_debian(out)
    (out / "LICENCES").write_text("".join(f"{line}\n" for line in told), encoding="utf-8")
    print("\n".join(told))
