"""How many cores this process may use: those it is bound to, and no more than its control groups' quotas of time.

A container with a quota of two cores on a machine of 64 sees all 64. Threads for 64 would use the quota up in the first
few ms of each period (100 ms as a rule), and then all stand still until the next.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

# Packages that count cores by themselves, without quotas (OpenMP) or rounding them down (polars).
COUNTED_BY = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")


def cores(root: Path = Path("/")) -> int:
    """At least 1; half a core counts as one. `root` is where /proc and /sys are."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *map(math.ceil, _quotas(root))]))


def bind_packages() -> None:
    """Holds packages with threads of their own to a quota; where there is none, they count as they always do."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if (count := cores()) < bound:
        for name in COUNTED_BY:
            os.environ.setdefault(name, str(count))


def _quotas(root: Path) -> Iterator[float]:
    """In cores, of every group from ours up to the topmost that is to be seen: the tightest holds."""
    for group, top in _groups(root):
        for folder in (group, *group.parents):
            quota = _quota(folder)
            if quota is not None:
                yield quota
            if folder == top:
                break


def _quota(group: Path) -> float | None:
    """Of one group, by version 2 or 1; None: as much as there is."""
    try:
        if (both := group / "cpu.max").exists():
            quota, period = both.read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file; `max`; what is no number
        return None
    return share if share > 0 else None  # -1: none


def _groups(root: Path) -> Iterator[tuple[Path, Path]]:
    """Our group's folder and the topmost one above it, in each hierarchy that shares out processor time."""
    try:
        ours = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in ours if line.count(":") > 1)}
    one = next((path for controllers, path in paths.items() if "cpu" in controllers.split(",")), None)
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        kind, _, options = (after.split(" ", 2) + ["", ""])[:3]
        if kind == "cgroup2":
            path = paths.get("")
        elif kind == "cgroup" and "cpu" in options.split(","):
            path = one
        else:
            continue
        if path is not None:
            top, where = (_plain(field) for field in before.split(" ")[3:5])
            yield _within(root / where.lstrip("/"), path, top)


def _within(mounted: Path, path: str, top: str) -> tuple[Path, Path]:
    """A container may see its own group as the top of what is mounted, and its path as the host does."""
    top = top.rstrip("/")
    inside = path[len(top) :] if path == top or path.startswith(f"{top}/") else ""
    parts = [part for part in inside.split("/") if part]
    group = mounted if ".." in parts else mounted.joinpath(*parts)
    return (group if group.is_dir() else mounted), mounted


def _plain(field: str) -> str:
    """Spaces stand as \\040 there."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
