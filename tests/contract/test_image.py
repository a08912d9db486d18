"""What tries the image is given what docker-compose.yml gives the service, and says in a line what it lacks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.image.base import wanted
from tests.image.build import pip_settings
from tests.image.serving import COMPOSE, USER, confined
from tests.processes import ROOT

IMAGE = (ROOT / "Dockerfile").read_text()


def test_the_container_is_confined_as_the_compose_file_says() -> None:
    assert COMPOSE["services"]["service"]["read_only"] and COMPOSE["services"]["service"]["shm_size"] == "160mb"
    assert confined() == [
        *("--read-only", "--read-only-tmpfs=false", "--shm-size", "160m"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    ]
    assert USER == ("10001", "10001")


def test_the_stand_in_is_of_the_image_s_python_and_debian() -> None:
    assert f"ARG BASE=python:{wanted().python}-slim-{wanted().suite}\n" in IMAGE
    assert IMAGE.count("FROM ${BASE}") == IMAGE.count("\nFROM ") == 2


def test_a_build_asks_the_index_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    wheels, file = tmp_path / "wheels", tmp_path / "pip.conf"
    wheels.mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    shown = pip_settings(file)
    assert file.read_text() == f"[global]\nindex-url = https://packages.example/simple\nfind-links = {wheels}\n"
    assert shown == ["--volume", f"{file}:/etc/pip.conf:ro", "--volume", f"{wheels}:{wheels}:ro"]


def test_where_there_is_no_podman_one_line_says_so(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("unshare", "mount", "sh"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    command = [sys.executable, "-m", "tests.image", "--home", tmp_path / "home"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": str(programs)})
    lacking = "podman is not there; on Debian: apt-get install podman crun debootstrap" if os.geteuid() == 0 else "root"
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr.startswith("image: ") and lacking in ran.stderr and ran.stderr.count("\n") == 1
