"""A benchmark's command: what it takes, prints and ends with."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime
from matplotlib.figure import Figure

from loadtest.errors import NoRun
from loadtest.machine import processor
from loadtest.peers import ROOT
from model.cores import cores

OUT = ROOT / ".cache" / "bench"


class Measured(NamedTuple):
    """What a benchmark found. Where its figures have `unmet`, what must be and is not, the command ends with 1."""

    figures: dict[str, Any]  # of the JSON line
    table: str  # for people
    figure: Figure | None = None  # for --out


class Command:
    """`python -m loadtest.NAME`; `full` and `quick` are its sizes, dataclasses with a default for every field.

    An option of a field's name sets that size; `--rounds`, `--cache` and `--out` are there where they mean something.
    """

    def __init__(
        self, name: str, description: str | None, full: Any, quick: Any, cache: Path | None = None, plots: bool = True
    ):
        self.name, self.full, self.quick = name, full, quick
        self.parser = argparse.ArgumentParser(
            f"python -m loadtest.{name}", description=description, formatter_class=argparse.RawTextHelpFormatter
        )
        add = self.parser.add_argument
        add("--quick", action="store_true", help="tiny sizes, to see that it works: no figures to quote")
        if hasattr(full, "rounds"):
            add("--rounds", type=positive, help="that all sides take, in turn")
        if cache:
            add("--cache", type=_folder, default=cache, help="where what it makes up is kept")
        if plots:
            add("--out", type=_png, default=OUT / f"{name}.png", help="of the plot, .png")

    def run(self, arguments: Sequence[str] | None, measure: Callable[[argparse.Namespace, Any], Measured]) -> int:
        """Measures and draws; prints the table and the JSON line. The exit code; SIGTERM ends it as Ctrl-C does."""
        args = self.parser.parse_args(arguments)
        sizes = self.quick if args.quick else self.full
        options = {field.name: getattr(args, field.name, None) for field in fields(sizes)}
        sizes = replace(sizes, **{name: value for name, value in options.items() if value})
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            figures, table, figure = measure(args, sizes)
            if figure:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                figure.savefig(args.out, dpi=150)
        except (NoRun, OSError) as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{self.name}: interrupted", file=sys.stderr)
            return 130
        finally:
            signal.signal(signal.SIGTERM, before)
        machine = f"{processor()}, {cores()} cores, onnxruntime {onnxruntime.__version__}"
        print(f"{table}\n{machine}")
        figures |= {"machine": machine}
        if figure:
            print(f"plot: {args.out}")
            figures |= {"plot": str(args.out)}
        for one in figures.get("unmet", ()):
            print(f"{self.name}: {one}", file=sys.stderr)
        print(json.dumps(_rounded(figures)))
        return 1 if figures.get("unmet") else 0


def positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; integers of at least 1 are allowed")
    return int(text)


def checkout(text: str) -> Path:
    """A folder that holds this repository, such as a git worktree."""
    path = Path(text).resolve()
    if not (path / "service" / "__main__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text}: no checkout, it has no service/__main__.py")
    return path


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is no folder")
    return path


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".png":
        raise argparse.ArgumentTypeError(f"{text!r}; a file that ends in .png is allowed")
    return path


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(one) for key, one in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
