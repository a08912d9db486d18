"""How many cores a process may use: those it is bound to, within the quotas of its control groups."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model import cores as counted
from model.cores import COUNTED_BY, cores
from service.settings import Settings, SettingsError, load_settings
from tests.processes import ROOT

V1 = Path("/sys/fs/cgroup/cpu")
V1_MOUNT = "31 30 0:28 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2_MOUNT = "29 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def tree(root: Path, ours: str, mount: str, files: dict[str, str]) -> Path:
    """What /proc and /sys hold for a process in the groups `ours`."""
    texts = {"proc/self/cgroup": ours + "\n", "proc/self/mountinfo": f"23 1 0:22 / /sys rw - sysfs sysfs rw\n{mount}\n"}
    for name, text in (texts | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", 8), ("1600000 100000", 8)]
    + [("", 8), ("0 0", 8), ("many cores", 8)],
)
def test_a_quota_of_version_2_is_rounded_up_and_never_adds_cores(tmp_path: Path, quota: str, expected: int) -> None:
    root = tree(tmp_path, "0::/app", V2_MOUNT.format(top="/"), {"app/cpu.max": f"{quota}\n"})
    assert cores(root) == expected


@pytest.mark.parametrize(("quota", "expected"), [(-1, 8), (250_000, 3), (1, 1)])
def test_so_is_one_of_version_1(tmp_path: Path, quota: int, expected: int) -> None:
    files = {
        "cpu,cpuacct/app/cpu.cfs_quota_us": f"{quota}\n",
        "cpu,cpuacct/app/cpu.cfs_period_us": "100000\n",
    }
    root = tree(tmp_path, "5:memory:/other\n4:cpu,cpuacct:/app\n0::/", V1_MOUNT.format(top="/"), files)
    assert cores(root) == expected


def test_the_tightest_quota_on_the_way_up_holds(tmp_path: Path) -> None:
    files = {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "500000 100000"}
    assert cores(tree(tmp_path, "0::/a/b/c", V2_MOUNT.format(top="/"), files)) == 3


@pytest.mark.parametrize("top", ["/docker/1a2b", "/docker"])
def test_a_container_that_sees_the_host_s_paths_finds_its_own_group(tmp_path: Path, top: str) -> None:
    inside = "/docker/1a2b".removeprefix(top).lstrip("/")
    files = {f"{inside}/cpu.max".lstrip("/"): "200000 100000"}
    assert cores(tree(tmp_path, "0::/docker/1a2b", V2_MOUNT.format(top=top), files)) == 2


@pytest.mark.parametrize("path", ["/../../elsewhere", "/gone", "/elsewhere/app"])
def test_a_group_that_cannot_be_seen_is_bound_by_the_topmost_that_can(tmp_path: Path, path: str) -> None:
    root = tree(tmp_path, f"0::{path}", V2_MOUNT.format(top="/"), {"cpu.max": "200000 100000"})
    assert cores(root) == 2


def test_a_folder_with_a_space_is_found(tmp_path: Path) -> None:
    mount = "29 23 0:26 / /sys/fs/cgroup/of\\040mine rw - cgroup2 cgroup2 rw"
    assert cores(tree(tmp_path, "0::/app", mount, {"of mine/app/cpu.max": "100000 100000"})) == 1


def test_without_control_groups_it_is_the_cores_that_it_is_bound_to(tmp_path: Path) -> None:
    assert cores(tmp_path) == 8
    assert cores(tree(tmp_path, "not a group\n", "not a mount\n29 - cgroup2", {})) == 8


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (64, 1)])
def test_cores_are_shared_out_among_workers(workers: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.cores", lambda: 8)
    assert Settings(workers=workers).score_threads == threads
    assert Settings(workers=workers, score_threads=5).score_threads == 5


def test_a_wrong_number_of_workers_is_told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKER_WORKERS", "0")
    with pytest.raises(SettingsError) as told:
        load_settings()
    assert str(told.value) == "RANKER_WORKERS='0': Input should be greater than or equal to 1"


@pytest.mark.parametrize(("quota", "set_to"), [(2, "2"), (8, None)])
def test_packages_that_count_by_themselves_are_held_to_a_quota_alone(
    quota: int, set_to: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in COUNTED_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(counted, "cores", lambda: quota)
    counted.bind_packages()
    assert {name: os.environ.get(name) for name in COUNTED_BY} == dict.fromkeys(COUNTED_BY, set_to)
    for name in COUNTED_BY:
        monkeypatch.delenv(name, raising=False)


@contextmanager
def group(folder: Path, quota_us: int) -> Iterator[Path]:
    """A real one, of version 1; skips where none can be made."""
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of version 1 can be made here: {error}")
    try:
        (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        yield folder
    finally:
        folder.rmdir()


def test_a_process_in_a_real_group_counts_by_its_quota_and_torch_and_polars_do_too() -> None:
    if _usable() < 2:
        pytest.skip("one core: a quota changes nothing")
    code = (
        "import model.cores as m, torch, polars; print(m.cores(), torch.get_num_threads(), polars.thread_pool_size())"
    )
    environment = {name: text for name, text in os.environ.items() if name not in COUNTED_BY}
    with group(V1 / f"ranker-test-{os.getpid()}", 50_000) as outer, group(outer / "inner", -1) as inner:
        enter = f'echo $$ > {inner}/cgroup.procs && exec "$@"'
        ran = subprocess.run(
            ["sh", "-c", enter, "sh", sys.executable, "-c", code],
            cwd=ROOT,
            env=environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert ran.stdout.split() == ["1", "1", "1"], ran.stderr


def _usable() -> int:
    """Of this machine, whatever the tests above pretend."""
    ran = subprocess.run(["nproc"], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    return int(ran.stdout)
