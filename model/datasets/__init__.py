"""Raw log → canonical tables: a module per log format, each with `write_tables` (model/datasets/tables.py).

A format's module is imported only when it is asked for, and its feature table stands beside it: `<name>.toml`.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from model.datasets.tables import COMMON, Options
from model.datasets.tables import DataError as DataError  # for whoever calls a data set
from model.options import OptionError, refuse_unknown

MODULES = {
    "simulated": "model.datasets.simulated",
    "chain": "model.datasets.chain",
    "kuairand": "model.datasets.kuairand",
    "kuaivideo": "model.datasets.kuaivideo",
    "taobao": "model.datasets.taobao",
    "taobaoad": "model.datasets.taobaoad",
    "amazon": "model.datasets.amazon",
    "movielens": "model.datasets.movielens",
    "yambda": "model.datasets.yambda",
    "recbole": "model.datasets.recbole",
    "parquet": "model.datasets.parquet",
    "service_log": "model.datasets.service_log",
}
MADE_UP = ("simulated", "chain")  # which read no log
OWN = ("parquet", "service_log")  # whose feature table is the user's, and decides how the log is read


def names() -> list[str]:
    return sorted(MODULES)


def load(name: str) -> ModuleType:
    """The module of a data set; it has `write_tables(raw, out, options) -> DataSet`. Raises DataError."""
    if name not in MODULES:
        raise DataError(f"data set {name!r}, allowed: {', '.join(names())}")
    return import_module(MODULES[name])


def options(name: str, raw: Path | str | None, values: Mapping[str, Any]) -> Options:
    """The options of a data set, whose log is in the folder `raw`. Raises OptionError for those that it has not."""
    refuse_unknown(values, (*COMMON, *getattr(load(name), "OPTIONS", ())), f"data set {name}")
    if (raw is None) != (name in MADE_UP):
        none = " and ".join(MADE_UP)
        raise OptionError(f"data set {name}: --raw names the log of every data set but {none}, which have none")
    if isinstance(raw, str) and name != "service_log":
        raise OptionError(f"data set {name}: --raw {raw} given, a folder is needed; service_log alone reads a URL")
    if isinstance(raw, Path) and not raw.is_dir():
        raise OptionError(f"data set {name}: --raw {raw} is no folder")
    if values.get("engine") != "spark" and "master" in values:
        raise OptionError(f"options: --master {values['master']} given, which --engine spark alone has")
    if values.get("engine") == "spark" and "processes" in values:
        raise OptionError("options: --processes given, of which --engine spark has as many as its --master has cores")
    return Options(**values)


def features(name: str, raw: Path | str | None, base: Path | None = None) -> Path:
    """The data set's features.toml: the project's own, or for one's OWN log the base's, or what lies beside the tables.

    Raises DataError.
    """
    if name not in OWN:
        return Path(__file__).with_name(f"{name}.toml")
    if base is not None:
        return base / "features.toml"
    beside = Path(raw or "") / "features.toml"
    if isinstance(raw, str) or not beside.is_file():
        instead = "by --base DATA, or by --features FILE" if name == "service_log" else "or by --features FILE"
        draft = "" if name == "service_log" else "; --draft writes a first one"
        raise DataError(f"{beside} is missing: tables of one's own need a feature table, there, {instead}{draft}")
    return beside
