"""Spark, as preparation uses it: a session that reads SQL as DuckDB does, says nothing, and leaves nothing behind.

The cluster's own settings (memory of executors, their number, addresses) are where Spark looks for them: the file
spark-defaults.conf in $SPARK_CONF_DIR.
"""

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from model.cores import cores
from model.progress import progress as shown

SHARE = 0.5  # of the memory that a command may take is Java's: the rest is for numpy
ANSWERS_S = 5  # within which a master's port must
ENDS_S = 30  # within which Java must
MASTERS = "local[N], spark://HOST:PORT, yarn, k8s://URL"
GLOB = set("*?[]{}\\")  # which Hadoop would take for a pattern of names
SETTINGS = {
    "spark.sql.ansi.enabled": "true",  # a value that does not fit is an error, never another value
    "spark.sql.ansi.doubleQuotedIdentifiers": "true",
    "spark.sql.parser.escapedStringLiterals": "true",  # a backslash in a text is one
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.executorEnv.POLARS_MAX_THREADS": "1",  # the tasks are the threads
    "spark.executorEnv.OMP_NUM_THREADS": "1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",  # `progress` shows it
    "spark.log.level": "ERROR",
}


class SparkError(ValueError):
    """What Spark cannot do, or what it lacks; one line."""


class GaveUp(SparkError):
    """What went wrong in Spark itself, whose log is kept."""


@contextmanager
def session(master: str | None, memory_gib: float, work: Path) -> Iterator[Any]:
    """A session on a master (None: on this machine's cores), which ends with its Java machine on leaving.

    What its driver spills and writes lies in `work`. Raises SparkError, also for what goes wrong within.
    """
    master = master or f"local[{cores()}]"
    require(master, work)
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    settings = SETTINGS | {
        "spark.master": master,
        "spark.app.name": "bst-ranker model.prepare",
        "spark.driver.memory": f"{max(512, int(memory_gib * SHARE * 1024))}m",
        "spark.local.dir": str(work),
        "spark.sql.warehouse.dir": f"file://{work}/warehouse",
    }
    if master.startswith("local"):
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    # Java's errors are pages long: they go into a file, which stays where the end was not a good one.
    handle, log = mkstemp(prefix="prepare-spark-", suffix=".log")
    before = signal.getsignal(signal.SIGINT)
    try:
        with _environment(), _without_traces(), open(handle, "wb") as told, _told(master, Path(log)):
            gateway = launch_gateway(SparkConf().setAll(list(settings.items())), {"stderr": told, "stdout": told})
            try:
                with _told(master, Path(log)):  # while Java still answers what its errors say
                    SparkContext._ensure_initialized(gateway=gateway)
                    context = SparkContext(conf=SparkConf().setAll(list(settings.items())))
                    signal.signal(signal.SIGINT, before)  # Spark's asks Java first, which then tells of an error
                    try:
                        yield SparkSession(context)
                    finally:
                        with suppress(Exception):  # of a connection that is gone already
                            context.stop()
            finally:
                _end(gateway)
    except GaveUp:
        raise
    except BaseException:
        Path(log).unlink(missing_ok=True)
        raise
    else:
        Path(log).unlink(missing_ok=True)


@contextmanager
def _told(master: str, log: Path) -> Iterator[None]:
    """What Spark and Java refuse, in a line."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        line = first_line(error)
        if "JAVA_GATEWAY_EXITED" in line:  # what it said before tells why
            line = next(iter(_thrown(log.read_text(errors="replace"))), line)
        raise GaveUp(f"Spark on {master} gave up: {line}; its log is {log}") from None


def require(master: str | None, out: Path) -> None:
    """Raises SparkError where something is lacking that Spark itself would tell late, or in a page of Java.

    `out` is where the prepared data are to be.
    """
    if master is not None and not re.match(r"local($|-cluster\[|\[)|spark://|yarn$|k8s://", master):
        raise SparkError(f"--master {master!r} given, allowed: {MASTERS}")
    if wrong := GLOB & set(str(out)):
        raise SparkError(f"--out has {' '.join(sorted(wrong))} in its path, which Spark takes for patterns of names")
    if master is not None and master.startswith("spark://"):
        faults = [fault for place in master.removeprefix("spark://").split(",") if (fault := _fault(place))]
        if len(faults) == master.count(",") + 1:
            raise SparkError(f"--master {master}: {'; '.join(faults)}")
    home = os.environ.get("JAVA_HOME")
    if not (Path(home, "bin", "java").is_file() if home else shutil.which("java")):
        where = f"JAVA_HOME is {home}, which has no bin/java" if home else "there is no java on PATH"
        raise SparkError(f"--engine spark needs Java 17 or newer, and {where} (Debian: openjdk-17-jre-headless)")
    try:
        import pandas  # noqa: F401  # Spark's way of giving rows to Python asks for both
        import pyarrow  # noqa: F401
        import pyspark  # noqa: F401
    except ImportError as error:
        raise SparkError(f"--engine spark: {error}; pip install 'bst-ranker[spark]' brings it") from None


def _fault(place: str) -> str | None:
    """Why nobody answers at host:port."""
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        return f"{place!r} is no HOST:PORT"
    try:
        socket.create_connection((host, int(port)), ANSWERS_S).close()
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"no master answers at {place}: {reason}"
    return None


@contextmanager
def _without_traces() -> Iterator[None]:
    """Ctrl-C while Java is asked is logged with a trace by what asks, and raised besides."""

    def other(record: logging.LogRecord) -> bool:
        return "KeyboardInterrupt" not in str(record.msg)

    logging.getLogger().addFilter(other)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(other)


@contextmanager
def _environment() -> Iterator[None]:
    """Processes that encode run this Python and find this project; both may be set otherwise for a cluster."""
    before = {name: os.environ.get(name) for name in ("PYSPARK_PYTHON", "PYTHONPATH")}
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    root = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, before["PYTHONPATH"])))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end(gateway: Any) -> None:
    """Ends the Java machine, which would stay until this process ends; another session begins a new one."""
    from pyspark import SparkContext

    SparkContext._gateway = SparkContext._jvm = None
    with suppress(Exception):
        gateway.shutdown()
    gateway.proc.stdin.close()  # on which it ends
    try:
        gateway.proc.wait(ENDS_S)
    except subprocess.TimeoutExpired:
        gateway.proc.kill()
        gateway.proc.wait()


def progress(session: Any, what: str) -> AbstractContextManager[None]:
    """Shows on stderr how far the stages under way are."""
    tracker = session.sparkContext.statusTracker()

    def percent() -> int:
        stages = [stage for id in tracker.getActiveStageIds() if (stage := tracker.getStageInfo(id))]
        tasks = sum(stage.numTasks for stage in stages)
        return int(100 * sum(stage.numCompletedTasks for stage in stages) // max(1, tasks))

    return shown(what, percent)


def first_line(error: Exception) -> str:
    """What is wrong, without traces: of an error in a Python process its last line, else the first that says more."""
    text = str(error)
    if "Traceback (most recent call last)" in text:
        trace = text[text.rindex("Traceback (most recent call last)") :].split("\n\n")[0].strip()
        return trace.splitlines()[-1].strip()
    thrown = _thrown(text) or [text.partition("\n")[0]]
    return thrown[0] if thrown[-1] in thrown[0] else f"{thrown[0].removesuffix('.')}: {thrown[-1]}"


def _thrown(text: str) -> list[str]:
    """What Java's errors in a text say."""
    pattern = r"^(?:Caused by: |: |Exception in thread \"[^\"]*\" )?[\w.$]+(?:Exception|Error): (.*)$"
    return re.findall(pattern, text, re.MULTILINE)
