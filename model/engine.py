"""DuckDB, as every reader and count of tables uses it: in streams, within a memory limit, spilling to a folder.

What is asked of it is SQL whose clauses other engines have too, so that a later release can run it on Spark.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from model.cores import cores
from model.progress import progress as shown

SHARE = 0.5  # of the memory that a command may take: the rest is for numpy, and for what DuckDB does not count


@contextmanager
def engine(spill: Path, memory_gib: float, threads: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose tables are gone on leaving; what its memory does not hold lies in `spill` meanwhile.

    Times are UTC. `threads` None: as many as this process may use. Nothing is fetched from the network.
    """
    with TemporaryDirectory(dir=spill, prefix=".spilled-") as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{max(1, int(memory_gib * SHARE * 1024))}MiB",
            "temp_directory": folder,
            "threads": threads or cores(),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(config=settings) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            # Counted, for `progress`, and never printed by itself.
            connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
            with _interruptible(connection):
                yield connection


@contextmanager
def _interruptible(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Ctrl-C during a query is Python's KeyboardInterrupt; DuckDB tells it as an error of its own."""
    try:
        with _ended_by_ctrl_c(connection):
            yield
    except duckdb.InterruptException:
        raise KeyboardInterrupt from None
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _ended_by_ctrl_c(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Ctrl-C ends the query under way. DuckDB looks for signals only where it has a moment: at times 20 s later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reads, writes = os.pipe()
    os.set_blocking(writes, False)  # as signals need it
    done = threading.Event()

    def watch() -> None:
        while (byte := os.read(reads, 1)) and byte[0] != signal.SIGINT:
            pass
        while byte and not done.wait(0.05):  # what comes just before a query would be lost
            connection.interrupt()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writes)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        done.set()
        os.close(writes)
        watcher.join()
        os.close(reads)


def progress(connection: duckdb.DuckDBPyConnection, what: str) -> AbstractContextManager[None]:
    """Shows on stderr how far each query is that runs meanwhile."""
    return shown(what, lambda: int(connection.query_progress()))


def quoted(name: str) -> str:
    """A column's name as SQL has it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def first_line(error: Exception) -> str:
    """What DuckDB says is wrong, without its hints."""
    return str(error).partition("\n")[0]
