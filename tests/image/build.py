"""The Dockerfile, built; and how large its layers are."""

import json
import os
import re
import tempfile
from pathlib import Path

from tests.image.podman import Podman
from tests.processes import ROOT

PIP = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST", "PIP_CERT", "PIP_DEFAULT_TIMEOUT")


def built(podman: Podman, base: str, extras: str | None) -> str:
    """The image's name. What was built before and has not changed is not built again."""
    image = f"localhost/bst-ranker:{re.sub(r'[^a-z0-9]+', '-', extras) if extras else 'latest'}"
    arguments = [f"BASE={base}", *([f"EXTRAS={extras}"] if extras else [])]
    with tempfile.TemporaryDirectory() as folder:
        podman(
            *("build", "--format", "docker", "--layers", "--isolation", "chroot", "--network", "host"),
            *(word for argument in arguments for word in ("--build-arg", argument)),
            *pip_settings(Path(folder) / "pip.conf"),
            *("--tag", image, ROOT),
            progress="[",
        )
    return image


def pip_settings(file: Path) -> list[str]:
    """Options by which pip within a build asks whom it asks here: the environment's PIP_…, which no layer keeps."""
    told = {name: os.environ[name] for name in PIP if os.environ.get(name)}
    lines = [f"{name.removeprefix('PIP_').lower().replace('_', '-')} = {value}" for name, value in told.items()]
    file.write_text("\n".join(["[global]", *lines, ""]))
    local = {value: value for value in told.values() if Path(value).is_absolute() and Path(value).exists()}
    shown = {str(file): "/etc/pip.conf"} | local
    return [word for here, there in shown.items() for word in ("--volume", f"{here}:{there}:ro")]


def layers(podman: Podman, base: str, image: str) -> dict[str, int]:
    """Bytes of the base, and of each step that adds some."""
    below = podman.told("image", "inspect", base)[0]["RootFS"]["Layers"]
    own = [layer for layer in reversed(podman.told("history", "--format", "json", image)) if layer["size"]]
    sizes = {f"FROM {base}": sum(layer["size"] for layer in own[: len(below)])}
    for layer in own[len(below) :]:
        step = re.sub(r" (file|dir):\w+ in", "", layer["CreatedBy"].removeprefix("/bin/sh -c #(nop) ")).strip()
        sizes[step] = sizes.get(step, 0) + layer["size"]
    return sizes


def compressed(podman: Podman, image: str, folder: Path) -> int:
    """Bytes of its layers as a registry keeps them."""
    podman("push", "--quiet", "--format", "oci", image, f"oci:{folder / 'pushed'}:tried")
    [manifest] = json.loads((folder / "pushed" / "index.json").read_text())["manifests"]
    blob = folder / "pushed" / "blobs" / manifest["digest"].replace(":", "/")
    return sum(layer["size"] for layer in json.loads(blob.read_text())["layers"])
