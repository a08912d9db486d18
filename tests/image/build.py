"""The Dockerfile, built; and how large each of its layers is."""

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


def layers(podman: Podman, image: str) -> dict[str, int]:
    """Bytes of each step that added some, the first one first."""
    history = podman.told("history", "--format", "json", image)
    steps: dict[str, int] = {}
    for layer in reversed(history):
        if layer["size"]:
            step = re.sub(r"^/bin/sh -c (#\(nop\) )?", "", layer["CreatedBy"]).strip() or "base"
            steps[step] = steps.get(step, 0) + layer["size"]
    return steps
