"""Run in the container by its own Python: who its processes are, where it may write, how large its packages are."""

import json
import os
import site
from contextlib import suppress
from pathlib import Path

NOT_ITS_OWN = ("/proc", "/sys")  # the kernel's


def processes() -> list[dict[str, str]]:
    """Of each: its user and group, its capabilities, and whether it can gain any."""
    told = []
    for path in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it has just ended
            lines = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
            told.append({name: lines[name].split("\t")[0] for name in ("Name", "Uid", "Gid", "CapEff", "NoNewPrivs")})
    return told


def writable() -> list[str]:
    folders = []
    for folder, within, _ in os.walk("/"):
        within[:] = [name for name in within if os.path.join(folder, name) not in NOT_ITS_OWN]
        if os.access(folder, os.W_OK):
            folders.append(folder)
    return folders


def packages() -> dict[str, int]:
    """Bytes by the folders that packages bring."""
    sizes: dict[str, int] = {}
    home = Path(site.getsitepackages()[0])
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink():
            name = path.relative_to(home).parts[0].partition("-")[0].removesuffix(".libs")
            sizes[name] = sizes.get(name, 0) + path.stat().st_size
    return sizes


if __name__ == "__main__":
    print(json.dumps({"processes": processes(), "writable": writable(), "packages": packages()}))
