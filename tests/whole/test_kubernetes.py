"""The containers of deploy/kubernetes, run as they are told to: one after the other, as a pod starts and ends.

Only paths are others: a folder of the test's stands for each volume.
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import polars as pl
import pytest

from model.prepared.loader import Prepared
from service.access.keys import made
from service.journal.file import CLOSED, OPEN
from tests.client import Service
from tests.kubernetes.built import Object
from tests.kubernetes.manifests import containers, environment, service_of
from tests.processes import ROOT, RUN_S, started, wait_until
from tests.worked import free_port

BUILD = "overlays/production"


class Pod:
    """Its volumes as folders, and what its containers are told, with these paths in the place of theirs."""

    def __init__(self, folder: Path, secrets: dict[str, str]):
        self._folder, self._secrets = folder, secrets

    def volume(self, path: str) -> Path:
        place = self._folder / path.strip("/")
        place.mkdir(parents=True, exist_ok=True)
        return place

    def environment(self, container: Object, build: str = BUILD) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RANKER_")}
        kept |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # `python` is the image's
        local = {name: self._local(container, value) for name, value in environment(build, container).items()}
        return kept | {"PYTHONPATH": str(ROOT)} | local | self._secrets

    def command(self, container: Object, build: str = BUILD) -> list[str]:
        """With $(NAME) replaced, as the kubelet does it."""
        told = self.environment(container, build)
        words = [self._local(container, word) for word in container["command"]]
        return [re.sub(r"\$\((\w+)\)", lambda name: told.get(name[1], name[0]), word) for word in words]

    def _local(self, container: Object, text: str) -> str:
        paths = "|".join(re.escape(mount["mountPath"]) for mount in container["volumeMounts"])
        return re.sub(rf"(?<![\w/])({paths})(?=[/ ]|$)", lambda path: str(self.volume(path[1])), text)


class SecretVolume:
    """A Secret as the kubelet mounts it: files are links through `..data`, which is renamed when the Secret changes."""

    def __init__(self, folder: Path):
        self._folder, self._version = folder, 0

    def write(self, **files: str) -> None:
        self._version += 1
        version = self._folder / f"..{self._version}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
            if not (self._folder / name).is_symlink():
                (self._folder / name).symlink_to(f"..data/{name}")
        (self._folder / "..data_tmp").symlink_to(version.name)
        (self._folder / "..data_tmp").rename(self._folder / "..data")


@pytest.mark.long
def test_the_pods_of_a_training_train_one_model_together(tiny_data: Prepared, tmp_path: Path) -> None:
    pod = Pod(tmp_path, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())})
    (pod.volume("/training") / "data").symlink_to(tiny_data.folder)
    train = dict(containers("training/train"))["ranker-train/train"]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[network]\nmlp = [16]\n[training]\nbatch_size = 1024\nevaluations = 1\n")
    _, *words = [*pod.command(train, "training/train"), "--recipe", str(recipe), "--publish-anyway"]
    told = pod.environment(train, "training/train")
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(started(*words, environment=told | {"RANK": str(rank)}))
            for rank in range(int(told["WORLD_SIZE"]))
        ]
        codes = [rank.process.wait(RUN_S) for rank in ranks]
        ranks[0].ended()  # all of its output is read
    assert codes == [0, 0], ranks[0]
    bundles = pod.volume("/training") / "bundles" / "bst_mine"
    assert (bundles / "current" / "manifest.json").exists() and '"published": true' in ranks[0].output


def status(port: int, method: str, path: str, key: str | None = None, body: object = None) -> int:
    headers = {"content-type": "application/json"} | ({} if key is None else {"authorization": f"Bearer {key}"})
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection.getresponse().status


def test_a_pod_starts_serves_takes_other_keys_and_leaves_nothing_in_its_journal(
    valkey_url: str, tmp_path: Path
) -> None:
    pod = Pod(
        tmp_path, {"RANKER_REDIS_URL": valkey_url, "RANKER_JOURNAL_SALT": "a salt", "TABLES": f"{tmp_path}/tables"}
    )
    named, service = dict(containers(BUILD)), service_of(BUILD)

    init = dict(containers("base"))["ranker/bundle"]  # without a BUNDLE: the demo's
    for _ in range(2):  # the second finds `current`
        subprocess.run(
            pod.command(init, "base"), env=pod.environment(init, "base"), check=True, capture_output=True, timeout=60
        )
    assert (pod.volume("/bundles") / "current" / "manifest.json").exists()

    key, line = made("caller", "rank,metrics")
    other, other_line = made("other", "rank,metrics")
    keys = SecretVolume(pod.volume("/etc/ranker/keys"))
    keys.write(keys=f"{line}\n")

    assert "command" not in service, "what runs is the image's"
    port, admin = free_port(), free_port()
    here = {"RANKER_HOST": "127.0.0.1", "RANKER_DRAIN_S": "0"}
    here |= {"RANKER_PORT": str(port), "RANKER_ADMIN_PORT": str(admin)}
    drain, *rest = pod.command(named["ranker/drain"])
    assert drain == "python"
    with (
        started("-m", "service", environment=pod.environment(service) | here, kind=Service) as running,
        started(*rest, environment=pod.environment(named["ranker/drain"])) as drainer,
    ):
        probes = {name: service[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
        wait_until(lambda: '"ready on' in running.output or running.process.poll() is not None, running)
        wait_until(  # that line is the first worker's; a pod is ready with both
            lambda: {status(admin, "GET", path) for path in probes.values()} == {200}, running
        )
        assert status(admin, "GET", "/metrics", key) == 200 and status(admin, "GET", "/metrics") == 401
        assert status(port, "POST", "/rank", key, {"user_id": "u1", "candidates": ["i1"]}) == 200

        keys.write(keys=f"{other_line}\n")
        wait_until(lambda: status(port, "GET", "/model", other) == 200, running)
        wait_until(lambda: status(port, "GET", "/model", key) == 401, running)

        wait_until(lambda: (pod.volume("/journal") / "lately.json").exists(), drainer)  # its first pass is over
        running.process.send_signal(signal.SIGTERM)
        assert running.ended() == 0, running
        drainer.process.send_signal(signal.SIGTERM)
        assert drainer.ended() == 0, drainer
    shown = pl.concat(pl.read_parquet(path) for path in (tmp_path / "tables" / "impressions").rglob("*.parquet"))
    assert len(shown) == 1 and shown["user_id"][0] != "u1"  # hashed
    assert not [path for path in pod.volume("/journal").iterdir() if path.suffix in (OPEN, CLOSED)]
