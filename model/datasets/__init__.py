"""Raw log → canonical tables: a module per log format, each with `write_tables` (model/datasets/tables.py).

A format's module is imported only when it is asked for, and its feature table stands beside it: `<name>.toml`.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from model.datasets.tables import DataError as DataError  # for whoever calls a data set

MODULES = {
    "simulated": "model.datasets.simulated",
    "kuairand": "model.datasets.kuairand",
    "taobao": "model.datasets.taobao",
    "amazon": "model.datasets.amazon",
    "movielens": "model.datasets.movielens",
    "parquet": "model.datasets.parquet",
}


def names() -> list[str]:
    return sorted(MODULES)


def load(name: str) -> ModuleType:
    """The module of a data set; it has `write_tables(raw, out, options) -> DataSet`. Raises DataError."""
    if name not in MODULES:
        raise DataError(f"data set {name!r}, allowed: {', '.join(names())}")
    return import_module(MODULES[name])


def features(name: str, raw: Path | None) -> Path:
    """The data set's features.toml: the project's own, or for `parquet` the one that lies beside the tables.

    Raises DataError.
    """
    if name != "parquet":
        return Path(__file__).with_name(f"{name}.toml")
    beside = (raw or Path()) / "features.toml"
    if not beside.is_file():
        raise DataError(f"{beside} is missing: tables of one's own need a feature table, there or by --features FILE")
    return beside
