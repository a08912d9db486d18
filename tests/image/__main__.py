"""Builds the image by Podman and tries it: what it promises, and how large it is.

    python -m tests.image [--extras otel] [--base IMAGE] [--mirror URL] [--home DIR]

The Dockerfile is built as it stands, and run with what docker-compose.yml gives its service: a read-only root without
/tmp, no capabilities, 160 MB of /dev/shm. Without --base a Debian root by debootstrap stands in for the official Python
image (tests/image/base.py says what differs), so that no registry of images is needed. What is made is kept in --home.
The last line is JSON. Exit code 1: a promise does not hold, or something is lacking, which the last line then names.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from loadtest.table import table
from model import command
from tests.image.base import stand_in, wanted
from tests.image.build import built, compressed, layers
from tests.image.podman import NotHere, Podman, enter_a_namespace, needed
from tests.image.serving import Tried, tried
from tests.processes import ROOT

MIRROR = "http://deb.debian.org/debian"
MB = 1e6  # as registries count
LARGEST = 6


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.image", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extras", help="the Dockerfile's EXTRAS; unset: its own")
    parser.add_argument("--base", metavar="IMAGE", help="the Dockerfile's BASE, pulled; unset: made by debootstrap")
    parser.add_argument("--mirror", default=os.environ.get("DEBIAN_MIRROR", MIRROR), help="of Debian, for debootstrap")
    parser.add_argument("--home", type=Path, default=ROOT / ".cache" / "image", help="for images and the Debian root")
    arguments = parser.parse_args()
    try:
        if os.geteuid() != 0:
            raise NotHere("a container on this machine's network, and debootstrap, need root")
        for program in ("podman", "crun", "unshare", *(() if arguments.base else ("debootstrap",))):
            needed(program)
        enter_a_namespace("tests.image")
        return _try(arguments)
    except NotHere as error:
        print(f"image: {error}", file=sys.stderr)
        return 1


def _try(arguments: argparse.Namespace) -> int:
    home = arguments.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    podman = Podman(home)
    base = arguments.base or stand_in(podman, wanted(), arguments.mirror, home)
    image = built(podman, base, arguments.extras)
    steps = layers(podman, base, image)
    with tempfile.TemporaryDirectory(prefix="ranker-image-") as folder:
        seen = tried(podman, image, Path(folder) / "store")
        pulled = compressed(podman, image, Path(folder))
    print(_page(steps, pulled, seen))
    broken = [promise.what for promise in seen.promises if not promise.held]
    figures = {
        "base": base,
        "image_mb": round(sum(steps.values()) / MB, 1),
        "pulled_mb": round(pulled / MB, 1),
        "steps_mb": {step: round(size / MB, 1) for step, size in steps.items()},
        "packages_mb": {name: round(size / MB, 1) for name, size in _largest(seen)},
        "ready_s": round(seen.ready_s, 2),
        "stopped_s": round(seen.stopped_s, 2),
        "promises": len(seen.promises),
        "broken": broken,
    }
    print(json.dumps(figures))
    return 1 if broken else 0


def _largest(seen: Tried) -> list[tuple[str, int]]:
    return sorted(seen.packages.items(), key=lambda one: -one[1])[:LARGEST]


def _page(steps: dict[str, int], pulled: int, seen: Tried) -> str:
    sizes = {step: [size / MB] for step, size in steps.items()}
    sizes |= {"image": [sum(steps.values()) / MB], "its layers, compressed": [pulled / MB]}
    packages = {name: [size / MB] for name, size in _largest(seen)}
    told = [f"{'held' if one.held else 'NOT HELD'}: {one.what}: {one.seen}" for one in seen.promises]
    return "\n\n".join([table("step", ["MB"], sizes), table("largest packages", ["MB"], packages), "\n".join(told)])


if __name__ == "__main__":
    command.run(main, "image", "what was made is in --home, and is used again")
