"""Imports point one way; the arrows of the design as a table, and a parser that holds the code to it."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A folder, or a verb beside it -> what it may import of the project; what lies within one folder imports each other
# freely, but never in a circle. The longest prefix counts.
OPTIONS = {"model.options"}  # a leaf: what an option may be
ENGINE = {"model.engine"}  # a leaf: DuckDB within its limits
SPARK = {"model.spark"}  # a leaf: a session on Spark
CORES = {"model.cores"}  # a leaf: how many there are to use
COMMAND = {"model.command"}  # a leaf: how a command ends
LINES = {"model.textfile"}  # a leaf: lines of text files as people's tools write them
FILES_ALONE = {"model.files"}  # a leaf: it writes beside and renames
FEATURES = {"model.features"}
SHOWN = FEATURES | {"model.servicelog"}  # shapes of the service's log
ENCODED = SHOWN | FILES_ALONE | OPTIONS | ENGINE | CORES | {"model.datasets"}  # what there is before a network
SERVED = SHOWN | {"model.bundle"}  # all of model/ that the service knows
LEARNT = SERVED | FILES_ALONE | OPTIONS | {"model.prepared", "model.evaluation", "model.networks"}
TRAINED = LEARNT | {"model.training", "model.graph"}
ARROWS = {
    "model": COMMAND | CORES | {"model.quiet"},  # its __init__, and whatever has no arrow yet
    "model.engine": CORES | {"model.progress"},
    "model.spark": CORES | {"model.progress"},
    "model.progress": set(),
    "model.cores": set(),
    "model.quiet": set(),
    "model.files": set(),
    "model.command": set(),
    "model.textfile": set(),
    "model.pages": set(),
    "model.options": set(),
    "model.features": FILES_ALONE | OPTIONS,
    "model.bundle": FEATURES | FILES_ALONE,
    "model.servicelog": FEATURES | ENGINE,
    "model.networks": FEATURES | OPTIONS,
    "model.datasets": SHOWN | OPTIONS | ENGINE | FILES_ALONE,
    "model.replaying": SERVED | ENGINE,
    "model.prepared": ENCODED | SPARK,
    "model.evaluation": SERVED | FILES_ALONE | {"model.prepared"},
    "model.training": LEARNT,
    "model.graph": LEARNT | {"model.training"},
    "model.reproduction": TRAINED | CORES | {"model.pages"},
    "model.loader": {"model.prepared"},
    "model.prepare": COMMAND | ENCODED | SPARK | {"model.prepared"},
    "model.cataloguing": SERVED | LINES | {"model.prepared"},
    "model.catalog": COMMAND | {"model.bundle", "model.cataloguing"},
    "model.evaluate": COMMAND | SERVED | OPTIONS | {"model.prepared", "model.evaluation"},
    "model.replay": COMMAND | SERVED | ENGINE | {"model.replaying"},
    "model.export": COMMAND | LEARNT | {"model.graph"},
    "model.train": COMMAND | TRAINED | {"model.evaluate"},
    "model.search": COMMAND | TRAINED,
    "model.daily": COMMAND | TRAINED | {"model.datasets"},
    "model.demo": COMMAND | TRAINED | {"model.datasets", "model.prepare", "model.train"},
    "model.reproduce": COMMAND | TRAINED | {"model.reproduction"},
    "service": {"service", *SERVED, *COMMAND},  # app and __main__, which know all parts
    "service.process": {"service", *SERVED, *COMMAND},  # likewise
    "service.process.prelude": SERVED  # not service.api: FastAPI takes half a second of every start
    | {"service.access", "service.journal", "service.loading", "service.models", "service.process.child"}
    | {"service.scoring"}
    | {"service.settings", "service.store", "service.telemetry", "service.variants"},
    "service.process.control": set(),  # a leaf: what processes tell each other
    "service.process.orders": {"service.errors", "service.process.control"},
    "service.models": SERVED
    | {"service.call", "service.errors", "service.process.control", "service.scoring", "service.settings", *COMMAND}
    | {"service.pause", "service.process.child", "service.telemetry", "service.wire"},
    "service.models.installing": {"model.command", "model.files"}
    | SERVED
    | {"service.models", "service.process.child", "service.wire.codings"},
    "service.process.child": set(),
    "service.process.adminprocess": {"service.process.kept"},
    "service.process.kept": {"service.telemetry"},
    "service.process.admin": {
        "service.access",
        "service.errors",
        "service.process.adminprocess",
        "service.telemetry",
        "service.process.kept",
    }
    | {"service.api.http", "service.wire.codings"},  # a light process
    "service.settings": {"service.listed", *CORES},
    "service.listed": set(),  # a leaf: what settings that are lists may hold
    "service.errors": set(),
    "service.ownfolder": set(),  # a leaf: a folder that is found again when its process was killed
    "service.looking": set(),  # a leaf: a thread that looks every so often
    "service.pause": set(),  # a leaf: how a thread lets others have the interpreter
    "service.access": {"service.errors", "service.looking"},
    "service.keys": {"service.access", "model.files", *COMMAND},
    "service.wire": FEATURES | {"service.errors"},
    "service.telemetry": {"service.errors", "service.ownfolder"},
    "service.store": FEATURES | {"service.ownfolder", "service.settings", "service.telemetry"},
    "service.call": {"service.access", "service.errors"},
    "service.journal": SHOWN | COMMAND | {"service.telemetry", "service.wire.codings"},
    "service.journal.folder": set(),  # a leaf: the parent asks it whether the folder can be written
    "service.explore": set(),  # a leaf: how an order is drawn
    "service.drained": SHOWN | FILES_ALONE | ENGINE | {"service.journal"},
    "service.drain": {"model.files", "service.drained", *COMMAND},
    "service.comparing": SERVED | ENGINE | {"model.pages"},
    "service.comparing.statistics": set(),  # a leaf: numpy alone
    "service.experiments": SHOWN | COMMAND | FILES_ALONE | OPTIONS | {"service.comparing"},
    "service.scoring": SERVED
    | {"service.call", "service.errors", "service.looking", "service.pause", "service.telemetry.logs"},
    "service.rank": FEATURES
    | {"service.call", "service.errors", "service.explain", "service.explore", "service.wire", "service.store"}
    | {"service.scoring"},
    "service.feedback": SHOWN
    | {"service.errors", "service.journal", "service.loading.user", "service.store", "service.wire"},
    "service.shadowing": SERVED
    | FILES_ALONE
    | COMMAND
    | {"service.journal", "service.models", "service.settings", "service.telemetry", "service.variants"},
    "service.variants": SERVED
    | FILES_ALONE
    | {"service.call", "service.comparing.statistics", "service.feedback", "service.looking", "service.models"}
    | {"service.pause", "service.scoring", "service.store", "service.telemetry", "service.wire"},
    "service.explain": SERVED | {"service.call", "service.wire", "service.store", "service.scoring"},
    "service.batch": FEATURES
    | {"service.call", "service.errors", "service.wire"}
    | {"service.explore", "service.rank", "service.store", "service.scoring"},
    "service.api": SERVED
    | {"service.access", "service.call", "service.errors", "service.wire", "service.batch"}
    | {"service.explore", "service.feedback", "service.journal", "service.loading.user", "service.process.orders"}
    | {"service.rank", "service.settings", "service.listed", "service.models"}
    | {"service.store", "service.scoring", "service.telemetry", "service.variants"},
    "service.publish": SERVED | COMMAND | FILES_ALONE | {"service.models", "service.settings"},
    "service.loading": FEATURES | LINES | {"service.store"},
    "service.loading.trial": SERVED | {"service.loading", "service.settings"},
    "service.backfill": SERVED | COMMAND | {"service.settings", "service.loading"},
    "loadtest": {"loadtest", *COMMAND},
    "loadtest.errors": set(),
    "loadtest.machine": set(),
    "loadtest.quantiles": set(),
    "loadtest.table": set(),
    "loadtest.generator": {
        "loadtest.errors",
        "loadtest.machine",
        "loadtest.quantiles",
        *LINES,
        *CORES,
    },  # knows HTTP alone
    "loadtest.verdict": {"loadtest.errors", "loadtest.machine", "loadtest.quantiles", "loadtest.table"}
    | {"loadtest.generator", "model.pages", *CORES},
    "loadtest.bench": {"loadtest.errors", "loadtest.machine", "loadtest.peers", "model", "service"},
    "loadtest.bench.processes": {"loadtest.errors"},  # the load test starts a service without torch
    "loadtest.surge": {"loadtest.errors", "loadtest.quantiles", "loadtest.generator", "loadtest.verdict"},
    "loadtest.rolling": {"loadtest.bench.processes", "loadtest.errors", "loadtest.generator", "loadtest.quantiles"}
    | {
        "loadtest.surge.scrape",
        "loadtest.table",
        "loadtest.verdict.report",
        "model.bundle",
        "service.settings",
        "service.store.embedded",
        "service.store.tied",
    },
    "loadtest.feed": {"loadtest.bench.processes", "loadtest.errors", "loadtest.generator", "model"},
    "loadtest.restarts": {"loadtest", *COMMAND},
    "loadtest.peers": {"loadtest.errors", "model.features", "model.prepared"},
    "loadtest.accuracy": {"loadtest", "model"},
    "loadtest.batches": {"loadtest", "model", "service.settings"},
    "loadtest.encoding": {"loadtest", "model.features", "model.files", *COMMAND},
    "loadtest.experiments": {"loadtest", "model", "service.settings"},
    "loadtest.instances": {"loadtest", "service.loading", *COMMAND},
    "loadtest.journal": {"loadtest", "model"},
    "loadtest.loop": {"loadtest", "model", "service.store"},
    "loadtest.networks": {"loadtest", "model"},
    "loadtest.overhead": {"loadtest", "model"},
    "loadtest.overload": {"loadtest", "service.settings", *COMMAND},
    "loadtest.preparing": {"loadtest", "model"},
    "loadtest.ranks": {"loadtest", "model"},
    "loadtest.scoring": {"loadtest", "model"},
    "loadtest.sharded": {"loadtest", "model"},
    "loadtest.swaps": {"loadtest", "model"},
    "loadtest.training": {"loadtest", "model"},
}
FILES = sorted(path for room in ("service", "model", "loadtest") for path in (ROOT / room).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("service", "model", "loadtest", "tests")}


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_what_its_arrow_allows(path: Path) -> None:
    module = module_of(path)
    if path.read_text().strip() == "":
        return
    owner = max((prefix for prefix in ARROWS if within(module, prefix)), key=len)
    beside = {owner} if (ROOT / owner.replace(".", "/")).is_dir() and "." in owner else set()
    wrong = [name for name in imports_of(path) if not any(within(name, to) for to in ARROWS[owner] | beside)]
    assert not wrong, f"{module} must not import {wrong}: add an arrow to ARROWS and to the design, or take another way"


def test_no_files_import_each_other_in_a_circle() -> None:
    modules = {module_of(path): path for path in FILES}
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports_of(path)} - {module}
        for module, path in modules.items()
        if path.name != "__init__.py"  # a folder's own, which only names what lies in it
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the files
    assert set(graph) <= set(order)


def test_the_parser_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from model import train\n    import service.app\n")
    assert imports_of(wrong) == {"model.train", "service.app"}


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=module_of)
def test_no_test_file_is_imported_and_what_lies_beside_them_knows_no_test(path: Path) -> None:
    """What several tests need stands in tests/*.py: a test can be changed, moved or run without another."""
    folders = ("tests.unit", "tests.contract", "tests.whole", "tests.conftest")
    wrong = [name for name in imports_of(path) if any(within(name, folder) for folder in folders)]
    assert not wrong, f"{module_of(path)} must not import {wrong}: put what several need into tests/*.py"


BARRED = """
import runpy, sys
sys.modules |= dict.fromkeys(sys.argv[1].split(","))  # importing one of them raises
sys.argv = sys.argv[2:]
"""
RUN = 'runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)'
TORCH = ("torch", "onnx", "onnxscript", "sklearn")


def without(barred: Sequence[str], *program: str, code: str = RUN) -> "subprocess.CompletedProcess[str]":
    """Runs a module of the project where some packages cannot be imported."""
    command = [sys.executable, "-c", f"{BARRED}{code}", ",".join(barred), *program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_service_starts_where_neither_torch_nor_a_table_reader_can_be_imported() -> None:
    done = without((*TORCH, "polars", "tomli_w"), code="import service.app, service.__main__")
    assert done.returncode == 0, done.stderr


def test_the_admin_process_needs_nothing_that_ranks() -> None:
    heavy = ("onnxruntime", "fastapi", "pydantic", "redis", "service.rank", "model.bundle", "model.features")
    done = without(heavy, code="import service.process.admin")
    assert done.returncode == 0, done.stderr


TABLES = (
    "model.prepare",
    "model.evaluate",
    "model.catalog",
    "model.replay",
    "service.backfill",
    "service.drain",
    "service.experiments",
)  # verbs of that extra


@pytest.mark.parametrize("verb", TABLES)
def test_what_the_extra_tables_promises_runs_without_torch(verb: str) -> None:
    done = without(TORCH, verb, "--help")
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "verb",
    ["model.train", "model.search", "model.export", "model.daily", "model.reproduce", "model.demo"]
    + ["service.experiments"],
)
def test_help_does_not_wait_for_what_takes_seconds_to_import(verb: str) -> None:
    done = without((*TORCH, "matplotlib", "optuna", "lightgbm"), verb, "--help")
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


@pytest.mark.parametrize("missing", ["polars", "jinja2", "matplotlib"])
def test_a_report_without_its_extras_names_them(missing: str) -> None:
    done = without((missing,), "service.experiments", "--log", "log", "--out", "out")
    assert done.returncode == 1 and done.stderr == (
        f"experiments: {missing} is not installed: pip install 'bst-ranker[tables,loadtest]' brings it\n"
    )


def test_a_log_is_prepared_without_torch(tmp_path: Path) -> None:
    small = ("--dataset", "simulated", "--impressions", "2000", "--seed", "1", "--out", str(tmp_path / "data"))
    done = without(TORCH, "model.prepare", *small)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "meta.json").is_file()
