"""Adds to an exported bundle: the int8 graph beside the fp32 one, if it passes its gate (model/graph/quantize.py).

python -m model.export --bundle DIR --quantize [--data DIR]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model import command
from model.bundle.layout import REPORT
from model.bundle.reading import Bundle
from model.evaluation.measure import check_encoding
from model.prepared.loader import Prepared


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.export", description="Add to an exported bundle.")
    parser.add_argument(
        "--bundle", type=Path, required=True, help="a bundle, or the folder whose `current` points to one"
    )
    parser.add_argument("--quantize", action="store_true", required=True, help="the int8 graph beside the fp32 one")
    parser.add_argument("--data", type=Path, help="prepared data set (default: where the bundle was trained)")
    arguments = parser.parse_args(argv)
    from model.graph.quantize import LEAST_TAU, MOST_AUC_DROP, quantize  # torch takes seconds: after the arguments

    try:
        bundle = Bundle.open(arguments.bundle)
        figures = quantize(bundle, _data_of(bundle, arguments.data))
    except (OSError, ValueError) as error:
        print(f"export: {command.words(error)}", file=sys.stderr)
        return 1
    for name, limit in (("auc_drop", f"at most {MOST_AUC_DROP}"), ("kendall_tau", f"at least {LEAST_TAU}")):
        print(f"{name:12} {figures[name]:+.5f}   {limit}")
    served = "accepted: it is served where the processor multiplies bytes"
    print(f"int8 {served if figures['accepted'] else 'refused: fp32 stays'}")
    print(json.dumps({"bundle": str(bundle.folder), **figures}))
    return 0 if figures["accepted"] else 1


def _data_of(bundle: Bundle, folder: Path | None) -> Prepared:
    """The data set named, else the one the bundle was trained on; it must encode as the bundle does."""
    if folder is None:
        data_at = json.loads((bundle.folder / REPORT).read_text()).get("data_at")
        folder = bundle.folder / data_at if data_at else None
        if folder is None or not folder.is_dir():
            raise ValueError(f"the data set that {bundle.folder} was trained on is not there: name it by --data")
    data = Prepared(folder)
    check_encoding(bundle, data)
    return data


if __name__ == "__main__":
    command.run(main, "export", "the bundle is as it was")
