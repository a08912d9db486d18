"""A Prometheus that scrapes instances and evaluates our recording rules, both more often than in production."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from loadtest.bench.processes import free_port, on
from loadtest.errors import NoRun

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yml"
EVERY_S = 2
START_S, LOOK_S = 60.0, 0.2


class Sample(NamedTuple):
    """`at`: the second since 1970 of the sample itself, not of the question."""

    at: float
    value: float


class Prometheus:
    def __init__(self, port: int):
        self._url = f"http://127.0.0.1:{port}/api/v1/query?"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def newest(self, series: str) -> Sample | None:
        """Of a selector that names one series; None where there is none yet. Raises NoRun where there are several."""
        values, times = self._ask(series), self._ask(f"timestamp({series})")
        if len(values) > 1:
            raise NoRun(f"Prometheus has {len(values)} series {series}; one is needed")
        return Sample(times[0], values[0]) if values and times else None

    def scraped(self, instances: int) -> float | None:
        """Since when each of so many instances has been scraped: the oldest of their last scrapes."""
        ages = self._ask('timestamp(up{job="ranker"} == 1)')
        return min(ages) if len(ages) == instances else None

    def _ask(self, query: str) -> list[float]:
        with self._opener.open(self._url + urllib.parse.urlencode({"query": query}), timeout=10) as answer:
            return [float(one["value"][1]) for one in json.load(answer)["data"]["result"]]


def installed() -> str | None:
    return shutil.which("prometheus")


@contextmanager
def prometheus(targets: Sequence[str], cpus: set[int]) -> Iterator[Prometheus]:
    """It scrapes these host:port as job `ranker`. Raises NoRun where it is not installed or does not start."""
    program = installed()
    if program is None:
        raise NoRun("prometheus is not installed (Debian: apt install prometheus)")
    port = free_port()
    with TemporaryDirectory() as folder:
        home = Path(folder)
        rules = RULES.read_text().replace("interval: 15s", f"interval: {EVERY_S}s")
        (home / "rules.yml").write_text(rules)
        configuration = {
            "global": {name: f"{EVERY_S}s" for name in ("scrape_interval", "scrape_timeout", "evaluation_interval")},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "ranker", "static_configs": [{"targets": list(targets)}]}],
        }
        (home / "prometheus.yml").write_text(json.dumps(configuration))  # YAML, too
        options = {"config.file": home / "prometheus.yml", "storage.tsdb.path": home / "data", "log.level": "error"}
        options |= {"web.listen-address": f"127.0.0.1:{port}"}
        command = [program, *(f"--{name}={value}" for name, value in options.items())]
        with (home / "log").open("wb") as log, on(cpus):
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            running, until = Prometheus(port), time.monotonic() + START_S
            while not _scraped(running, len(targets)):
                if process.poll() is not None or time.monotonic() > until:
                    words = (home / "log").read_text(errors="replace").strip().splitlines()
                    raise NoRun(f"prometheus does not scrape {', '.join(targets)}: {words[-1] if words else 'no word'}")
                time.sleep(LOOK_S)
            yield running
        finally:
            process.kill()
            process.wait()


def _scraped(running: Prometheus, instances: int) -> bool:
    with suppress(OSError):  # it does not listen yet
        return running.scraped(instances) is not None
    return False
