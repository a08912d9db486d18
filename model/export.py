"""Network → ONNX bundle, refused unless onnxruntime answers as torch does.

    python -m model.export --bundle DIR --quantize [--data DIR]     adds an int8 graph (model/graph/quantize.py)

Opset 20: from 23 on the exporter emits one Attention node whose broadcast mask fails at run time.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model.bundle.layout import REPORT, BundleError
from model.bundle.reading import Bundle
from model.evaluation.measure import check_encoding
from model.prepared.loader import Prepared


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.export", description="Add to an exported bundle.")
    parser.add_argument(
        "--bundle", type=Path, required=True, help="a bundle, or the folder whose `current` points to one"
    )
    parser.add_argument("--quantize", action="store_true", required=True, help="the int8 graph beside the fp32 one")
    parser.add_argument("--data", type=Path, help="prepared data set (default: where the bundle was trained)")
    given = parser.parse_args(arguments)
    from model.graph.quantize import (  # it writes graphs by this module
        LEAST_TAU,
        MOST_AUC_DROP,
        QuantizeError,
        quantize,
    )

    try:
        bundle = Bundle.open(given.bundle)
        figures = quantize(bundle, _data_of(bundle, given.data))
    except (BundleError, QuantizeError, OSError, ValueError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    for name, limit in (("auc_drop", f"at most {MOST_AUC_DROP}"), ("kendall_tau", f"at least {LEAST_TAU}")):
        print(f"{name:12} {figures[name]:+.5f}   {limit}")
    said = (
        "accepted: it is served where the processor multiplies bytes" if figures["accepted"] else "refused: fp32 stays"
    )
    print(f"int8 {said}")
    print(json.dumps({"bundle": str(bundle.folder), **figures}))
    return 0 if figures["accepted"] else 1


def _data_of(bundle: Bundle, given: Path | None) -> Prepared:
    """The data set named, else the one the bundle was trained on; it must encode as the bundle does."""
    if given is None:
        told = json.loads((bundle.folder / REPORT).read_text()).get("data_at")
        given = bundle.folder / told if told else None
        if given is None or not given.is_dir():
            raise ValueError(f"the data set that {bundle.folder} was trained on is not there: name it by --data")
    data = Prepared(given)
    check_encoding(bundle, data)
    return data


if __name__ == "__main__":
    sys.exit(main())
