"""What every benchmark's command takes, prints and ends with."""

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnxruntime
from matplotlib.figure import Figure

from loadtest.bench.bundles import CACHE
from loadtest.errors import NoRun
from loadtest.peers import ROOT

OUT = ROOT / ".cache" / "bench"


# ---- commands


def new_parser(name: str, description: str, sides: bool = True) -> argparse.ArgumentParser:
    """With what all these benchmarks take; those that compare sides on made-up bundles take `--rounds` and `--cache`.

    `--rounds` is None where it is not given.
    """
    made = argparse.ArgumentParser(
        f"python -m loadtest.{name}", description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works: no figures to quote")
    if sides:
        made.add_argument("--rounds", type=positive, help="that all sides take, in turn")
        made.add_argument("--cache", type=Path, default=CACHE, help="where its bundles are kept")
    made.add_argument("--out", type=Path, default=OUT / f"{name}.png", help="of the plot, .png")
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    given = made.parse_args(arguments)
    if "cache" in given and given.cache.exists() and not given.cache.is_dir():
        made.error(f"--cache {given.cache} is no folder")
    if given.out.suffix != ".png":
        made.error(f"--out {given.out} given, a file that ends in .png is allowed")
    return given


def positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; integers of at least 1 are allowed")
    return int(text)


def command(name: str, out: Path, measure: Callable[[], tuple[dict[str, Any], str, Figure]]) -> int:
    """Measures, draws, and prints the table and the JSON line: the exit code. SIGTERM ends it as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        figures, table, figure = measure()
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    except (NoRun, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{table}\n{machine()}\nplot: {out}")
    print(json.dumps(_rounded(figures | {"machine": machine(), "plot": str(out)})))
    return 0


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(one) for key, one in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def machine() -> str:
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}"
