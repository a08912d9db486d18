"""deploy/kubernetes as it is built, and what is looked for in it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.kubernetes.built import Object, built, identity

ROOT = Path(__file__).parents[2]
HERE = ROOT / "deploy" / "kubernetes"
BUILDS = {path.parent.relative_to(HERE).as_posix(): built(path.parent) for path in HERE.rglob("kustomization.yaml")}
IMAGE = (ROOT / "Dockerfile").read_text()


def one(build: str, kind: str, name: str = "ranker") -> Any:
    (found,) = [each for each in BUILDS[build] if identity(each) == (kind, name)]
    return found


def pods(build: str) -> Iterator[tuple[str, Object]]:
    """What starts pods, with their template's spec."""
    for each in BUILDS[build]:
        spec = each.get("spec", {})
        template = (spec.get("jobTemplate", {}).get("spec") or spec).get("template")
        if template is not None:
            yield each["metadata"]["name"], template


def containers(build: str) -> Iterator[tuple[str, Object]]:
    for name, template in pods(build):
        for each in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"]):
            yield f"{name}/{each['name']}", each


def environment(build: str, container: Object) -> dict[str, str]:
    """Of a container: the image's, its ConfigMaps', and a word in place of each secret."""
    told = dict(re.findall(r"^    (RANKER_\w+)=(\S+?)(?: \\)?$", IMAGE, re.MULTILINE))
    for source in container.get("envFrom", ()):
        told |= one(build, "ConfigMap", source["configMapRef"]["name"])["data"]
    for each in container.get("env", ()):
        told[each["name"]] = each.get("value", f"of-{each['name'].lower()}")
    return told


def service_of(build: str) -> Object:
    return next(each for name, each in containers(build) if name == "ranker/ranker")
