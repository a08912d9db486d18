"""deploy/kubernetes holds objects that a cluster takes, by the shapes of its releases and of the operator's two CRDs.

What is looked at is what kustomize makes of the folders.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.kubernetes import rules
from tests.kubernetes.built import KEYS, Object, identity
from tests.kubernetes.manifests import BUILDS, HERE, one

SHAPES = {path.stem: yaml.safe_load(path.read_text()) for path in Path(rules.__file__).parent.glob("*.yaml")}
RELEASES = ("1.30", "1.37")  # the oldest that docs/kubernetes.md names, and the newest whose shapes there are

each_build = pytest.mark.parametrize("build", BUILDS)


def problems(thing: Object, release: str) -> list[str]:
    shape = SHAPES.get(thing["kind"].lower())
    if shape is not None:
        return [f"{list(e.absolute_path)}: {e.message}" for e in Draft202012Validator(shape).iter_errors(thing)]
    try:
        kubernetes_validate.validate(thing, release, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{list(error.path)}: {error.message}"]
    return []


@pytest.mark.parametrize("release", RELEASES)
@each_build
def test_a_cluster_takes_every_object_without_a_field_that_it_does_not_know(build: str, release: str) -> None:
    assert not {identity(each): told for each in BUILDS[build] if (told := problems(each, release))}


@pytest.mark.parametrize(
    ("kind", "path", "value", "complaint"),
    [
        ("Deployment", ("spec", "template", "spec", "terminationGracePeriod"), 60, "was unexpected"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "intervall"), "15s", "was unexpected"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "interval"), "15", "does not match"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "authorization", "credentials"), {"name": "x"}, "is a required"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "expr"), 0.02, "is not of type"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "alert"), "both", "is valid under each of"),
    ],
)
def test_a_field_that_is_misspelt_or_of_another_kind_is_found_out(
    kind: str, path: tuple[Any, ...], value: object, complaint: str
) -> None:
    thing = yaml.safe_load(yaml.safe_dump(one("overlays/production", kind)))
    assert not problems(thing, RELEASES[-1])
    *way, last = path
    place = thing
    for step in way:
        place = place[step]
    place[last] = value
    (told,) = problems(thing, RELEASES[-1])
    assert complaint in told


def plain(node: Any, key: str = "") -> Any:
    """Without what the builder of the tests leaves out: the hash of a ConfigMap's name, the order of keyed lists."""
    if isinstance(node, dict):
        return {name: plain(value, name) for name, value in node.items()}
    if isinstance(node, list):
        by = KEYS.get(key)
        return [plain(value) for value in (sorted(node, key=lambda v: str(v.get(by))) if by else node)]
    return re.sub(r"^(ranker(?:-bundle|-journal)?)-[a-z0-9]{10}$", r"\1", node) if isinstance(node, str) else node


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which has kustomize in it, is not installed")
@each_build
def test_the_builder_of_the_tests_makes_what_kustomize_makes(build: str) -> None:
    ran = subprocess.run(["kubectl", "kustomize", HERE / build], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    theirs = {identity(each): each for each in plain(list(yaml.safe_load_all(ran.stdout)))}
    assert theirs == {identity(each): each for each in plain(BUILDS[build])}


def test_the_rules_of_the_operator_are_those_of_the_one_file() -> None:
    assert rules.WRITTEN.read_text() == rules.page(), "run `make docs`"
