"""What `kustomize build` makes of a folder, as far as deploy/kubernetes uses it: for machines that have no kustomize.

Resources, strategic merge patches, images, and ConfigMaps from literals. Where kubectl is installed a test holds this
to what the original makes. Two things are left out: the hash at the end of a ConfigMap's name, and the order of lists.
"""

from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

# What tells one element of a list from another; lists of others are replaced whole.
KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}


def built(folder: Path) -> list[Object]:
    told = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(told) - {"apiVersion", "kind", "resources", "patches", "images", "configMapGenerator"}
    assert not unknown, f"{folder}: {unknown} is not known here: add it, or do without"
    objects: list[Object] = []
    for name in told["resources"]:
        path = folder / name
        objects += built(path) if path.is_dir() else [one for one in yaml.safe_load_all(path.read_text()) if one]
    for generated in told.get("configMapGenerator", ()):
        _generate(objects, generated)
    for patch in told.get("patches", ()):
        for change in yaml.safe_load_all((folder / patch["path"]).read_text()):
            (target,) = [one for one in objects if identity(one) == identity(change)]
            objects[objects.index(target)] = merged(target, change)
    for image in told.get("images", ()):
        for one in objects:
            _named(one, image)
    assert len({identity(one) for one in objects}) == len(objects), f"{folder}: an object is there twice"
    return objects


def identity(one: Object) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def merged(under: Any, over: Any, name: str = "") -> Any:
    """A strategic merge patch: null removes, objects are merged, and so are lists whose elements have a key."""
    if isinstance(under, dict) and isinstance(over, dict):
        both = {**under, **over}
        both |= {key: merged(under[key], over[key], key) for key in under.keys() & over.keys()}
        return {key: value for key, value in both.items() if value is not None}
    if isinstance(under, list) and isinstance(over, list) and name in KEYS:
        key = KEYS[name]
        by_key = {one[key]: one for one in under}
        changed = {one[key]: merged(by_key[one[key]], one) if one[key] in by_key else one for one in over}
        return list((by_key | changed).values())
    return over


def _generate(objects: list[Object], told: Object) -> None:
    data = dict(literal.split("=", 1) for literal in told["literals"])
    if told.get("behavior") == "merge":
        (there,) = [one for one in objects if identity(one) == ("ConfigMap", told["name"])]
        there["data"] |= data
    else:
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": told["name"]}, "data": data})


def _named(node: Any, image: Object) -> None:
    """Gives each container of that image its other name and tag."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _named(value, image)
    if isinstance(node, dict) and isinstance(node.get("image"), str):
        name, _, tag = node["image"].partition(":")
        if name == image["name"]:
            node["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
