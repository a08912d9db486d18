"""What many tests share: one small world, trained and exported once, and the real logs where they are."""

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import settings

from model.bundle.reading import Bundle
from model.datasets.tables import Options
from model.graph.publish import publish
from model.prepare import prepare
from model.prepared.loader import Prepared
from model.training.run import Run
from tests.worlds import SMALL

TESTS = Path(__file__).parent
pytest_plugins = ["tests.stores"]
pytest.register_assert_rewrite(
    "tests.batches",
    "tests.client",
    "tests.documented",
    "tests.graphs",
    "tests.loads",
    "tests.own_tables",
    "tests.processes",
    "tests.raw_logs",
)

settings.register_profile("any machine", deadline=None)  # no test fails because others work beside it
settings.load_profile("any machine")

LONGEST_FIRST = ("faults", "whole", "contract", "unit")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shared out among processes, what takes long comes first: the last files are short, and nobody waits for one.

    With `--no-loadscope-reorder`, as `make test` says; else xdist begins with the files of the most tests.
    """
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: LONGEST_FIRST.index(item.path.relative_to(TESTS).parts[0]))


@pytest.fixture(scope="session")
def real_logs() -> Path:
    """The folder of real logs; RANKER_REAL_LOGS names it."""
    folder = os.environ.get("RANKER_REAL_LOGS")
    if not folder:
        pytest.skip("RANKER_REAL_LOGS is not set: no real logs here")
    return Path(folder)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A simulated log of 20,000 impressions, prepared."""
    out = tmp_path_factory.mktemp("data") / "simulated"
    prepare("simulated", None, out, Options(impressions=20_000, seed=3))
    return Prepared(out)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A simulated log of 4,000 impressions, prepared: for what holds whatever is learnt."""
    out = tmp_path_factory.mktemp("tiny") / "simulated"
    prepare("simulated", None, out, Options(impressions=4000, seed=3))
    return Prepared(out)


@pytest.fixture(scope="session")
def small_run(small_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(small_data, "bst", SMALL, 1, tmp_path_factory.mktemp("run") / "checkpoint.pt")
    run.fit()
    return run


@pytest.fixture(scope="session")
def small_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """BST trained on `small_data`, exported; not to be changed in place. One for all processes that share the tests,
    so the data that it names may be another's, which are the same.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "shared" / "bundles"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        made = next(folder.glob("*/current"), None)
        return Bundle.open(made or publish(request.getfixturevalue("small_run"), folder, boosting=False).bundle)
