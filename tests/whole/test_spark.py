"""Preparation on Spark writes what DuckDB's writes, byte for byte, and leaves no process, port or folder behind.

Needs the extra `spark` and Java; `make test` skips it without. With Spark's own settings a small log takes a minute of
processor time, which goes into compiling: those tests are `make spark`'s.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import pytest
import tomli_w

from model.bundle.reading import Bundle
from service.settings import DEMO_BUNDLE
from tests.mixed_log import SCHEMA, tables
from tests.namespaces import PRIVATE
from tests.processes import ROOT, Running, finished, started, wait_until
from tests.servicelog import DAY, NOON, Served
from tests.worked import free_port

JAVA = bool(shutil.which("java") or os.environ.get("JAVA_HOME"))
pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        importlib.util.find_spec("pyspark") is None, reason="pyspark is not there: make spark brings it"
    ),
    pytest.mark.skipif(not JAVA, reason="Java is not there: Spark needs 17 or newer (Debian: openjdk-17-jre-headless)"),
]
HELD = {
    "features.toml",
    "vocab/user_id.npy",
    "catalog/items.npy",
    "encoded/cross.npy",
    "encoded/coupon_end.npy",
    "encoded/impressions-end.npy",
}
RUN = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
# Queries are interpreted and Java compiles simply, which takes a third of the processor time and gives the same rows.
UNCOMPILED = """
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xss4m
spark.sql.adaptive.enabled false
spark.sql.codegen.factoryMode NO_CODEGEN
spark.sql.codegen.wholeStage false
spark.sql.shuffle.partitions 1
"""
CLASS = """
import os, sys
from pyspark.find_spark_home import _find_spark_home
os.execv(f"{_find_spark_home()}/bin/spark-class", ["spark-class", *sys.argv[1:]])
"""


def prepared(out: Path, *arguments: object) -> dict[str, bytes]:
    """Every file of the prepared data but the tables, which are read before an engine begins."""
    done = finished("-m", "model.prepare", *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.parent.name != "tables"]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def refused(out: Path, *arguments: object, **environment: str) -> str:
    """The one line that says why there is no such folder afterwards."""
    done = finished("-m", "model.prepare", *arguments, "--out", out, **environment)
    lines = [line for line in re.split(r"[\r\n]", done.stderr) if line.startswith("prepare: ")]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert not out.exists() and not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    if kept := re.search(r"; its log is (\S+)$", lines[0]):
        Path(kept[1]).unlink()
    return lines[0]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Java begins slowly where others work beside it."""
    monkeypatch.setattr("tests.processes.PATIENCE_S", 1500)
    monkeypatch.setattr("tests.processes.RUN_S", 1500)


def on(master: str) -> list[str]:
    return ["--engine", "spark", "--master", master]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A log with lists and holes in them, gaps, ties, negative ids, another group's objects and strangers."""
    raw = tmp_path / "own"
    raw.mkdir()
    frames = tables(1500)
    word = pl.element()
    holed = pl.col("query").list.eval(pl.when(word != "w3").then(word)).shuffle(seed=1)
    frames["impressions"] = pl.concat([frames["impressions"], frames["impressions"].with_columns(holed)])
    for name, frame in frames.items():
        frame.write_parquet(raw / f"{name}.parquet")
    today = [
        {"name": f"{event}s_today", "side": "cross", "kind": "today", "event": event, "width": 2}
        for event in (SCHEMA["history"]["actions"][0], "impression")
    ]
    (raw / "features.toml").write_text(tomli_w.dumps(SCHEMA | {"feature": [*SCHEMA["feature"], *today]}))
    return raw


def test_a_log_of_ones_own_with_nothing_compiled(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "spark-defaults.conf").write_text(UNCOMPILED)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path / "conf"))
    log = ["--dataset", "parquet", "--raw", own, "--delay", "1h"]
    made = prepared(tmp_path / "spark", *log, *on("local[1]"), "--parts", 3)
    assert made == prepared(tmp_path / "duckdb", *log) and HELD <= set(made)


@pytest.mark.long
def test_a_log_of_ones_own_on_executors_that_are_processes(own: Path, tmp_path: Path) -> None:
    log = ["--dataset", "parquet", "--raw", own, "--delay", "1h"]
    duckdb = prepared(tmp_path / "duckdb", *log)
    assert prepared(tmp_path / "spark", *log, *on("local-cluster[2,1,1024]"), "--parts", 7) == duckdb
    assert HELD <= set(duckdb)


@pytest.mark.long
def test_a_hundred_thousand_simulated_impressions(tmp_path: Path) -> None:
    log = ["--dataset", "simulated", "--impressions", 100_000, "--seed", 1]
    assert prepared(tmp_path / "spark", *log, *on("local[2]")) == prepared(tmp_path / "duckdb", *log)


@pytest.mark.long
def test_the_services_own_log(tmp_path: Path) -> None:
    base = tmp_path / "base"
    prepared(base, "--dataset", "simulated", "--impressions", 3000, "--features", DEMO_BUNDLE / "features.toml")
    served, items = Served(Bundle.open(DEMO_BUNDLE)), [f"i{at}" for at in range(20)]
    for day in range(3):
        served.now = NOON + day * DAY
        for user in ("u0", "u1", "u2"):
            shown = served.rank(user, items, f"{user}-{day}")
            served.act(user, shown.items[day].item_id, f"{user}-{day}", after_ms=1000)
    served.write(tmp_path / "log")
    log = ["--dataset", "service_log", "--raw", tmp_path / "log", "--base", base]
    assert prepared(tmp_path / "spark", *log, *on("local[2]")) == prepared(tmp_path / "duckdb", *log)


@pytest.mark.long
@pytest.mark.parametrize(
    "dataset, piece", [("kuairand", "kuairand_pure"), ("taobao", "taobao_userbehavior"), ("amazon", "amazon_beauty")]
)
def test_a_real_log(dataset: str, piece: str, real_logs: Path, tmp_path: Path) -> None:
    log = ["--dataset", dataset, "--raw", real_logs / piece]
    assert prepared(tmp_path / "spark", *log, *on("local[2]")) == prepared(tmp_path / "duckdb", *log)


@pytest.fixture
def cluster() -> Iterator["Cluster"]:
    with ExitStack() as stack:
        yield Cluster(stack)


class Cluster:
    """A master, and workers that may see the file system otherwise."""

    def __init__(self, stack: ExitStack):
        self._stack, self.url = stack, f"spark://127.0.0.1:{free_port()}"
        port = self.url.rpartition(":")[2]
        place = ["--host", "127.0.0.1", "--port", port, "--webui-port", 0]
        self._master = stack.enter_context(started("-c", CLASS, "org.apache.spark.deploy.master.Master", *place))
        wait_until(lambda: "I have been elected leader" in str(self._master), self._master)

    def work(self, folder: Path, *before: str) -> Running:
        """A worker of one core, whose executors' files lie in `folder`; `before` is a command that begins it."""
        asked = ["org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--webui-port", "0", "-d", str(folder)]
        command = [*before, sys.executable, "-c", CLASS, *asked, "-c", "1", "-m", "1g", self.url]
        # Executors are to find this project, which a cluster's machines have installed.
        paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths))}
        worker = self._stack.enter_context(started("-c", RUN, *command, environment=environment))
        wait_until(lambda: "Successfully registered with master" in str(worker), worker)
        return worker


@pytest.mark.long
def test_a_cluster_and_an_executor_that_does_not_see_the_folder(cluster: Cluster, own: Path, tmp_path: Path) -> None:
    log = ["--dataset", "parquet", "--raw", own]
    worker = cluster.work(tmp_path / "worker")
    assert prepared(tmp_path / "spark", *log, *on(cluster.url)) == prepared(tmp_path / "duckdb", *log)
    worker.stop()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    hide = f"{PRIVATE}mount -t tmpfs none {elsewhere}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a mount namespace of one's own needs Linux and root")
    cluster.work(tmp_path / "worker", "unshare", "--mount", "sh", "-c", f'{hide} && exec "$0" "$@"')
    line = refused(elsewhere / "data", *log, *on(cluster.url))
    assert "does not see the folder of --out: it must be on storage that this machine and all executors share" in line


@pytest.mark.long
def test_bad_rows_and_broken_parts_are_told_by_file_and_value(own: Path, tmp_path: Path) -> None:
    log = ["--dataset", "parquet", "--raw", own, *on("local[2]")]
    frame = tables(3000)["impressions"]
    frame[9, "label"] = 7
    frame.write_parquet(own / "impressions.parquet")
    line = refused(tmp_path / "data", *log)
    assert f"{own / 'impressions.parquet'}, row 10: label: 7 given, 0 or 1 are allowed" in line
    whole = (own / "behaviours.parquet").read_bytes()
    (own / "behaviours.parquet").write_bytes(whole[: len(whole) // 2])
    assert str(own / "behaviours.parquet") in refused(tmp_path / "data", *log)
    (own / "behaviours.parquet").unlink()
    assert "behaviours" in refused(tmp_path / "data", *log)


@pytest.mark.long
@pytest.mark.parametrize(
    "master, environment, words",
    [
        ("local[x]", {}, r"Spark on local\[x\] gave up: Could not parse Master URL"),
        ("local[2]", {"JAVA_HOME": "/nowhere"}, "needs Java 17 or newer, and JAVA_HOME is /nowhere, which has no"),
        ("local[1]", {"PYSPARK_PYTHON": "/no/python"}, r"Spark on local\[1\] gave up: .*/no/python.*No such file"),
    ],
)
def test_what_spark_lacks_is_one_line(master: str, environment: dict[str, str], words: str, tmp_path: Path) -> None:
    log = ["--dataset", "simulated", "--impressions", 3000]
    assert re.search(words, refused(tmp_path / "data", *log, *on(master), **environment))


@pytest.mark.long
def test_ctrl_c_ends_java_too(tmp_path: Path) -> None:
    log = ["--dataset", "simulated", "--impressions", 3000, "--out", tmp_path / "data"]
    with started("-m", "model.prepare", *log, *on("local[2]")) as running:
        wait_until(lambda: [*tmp_path.glob(".data-*/.work-*/shared")], running)  # Spark is there
        running.process.send_signal(signal.SIGINT)
        assert running.ended() == 130, str(running)
    assert "prepare: interrupted; --out is as it was" in str(running) and "Traceback" not in str(running)
    assert not [*tmp_path.iterdir()]
