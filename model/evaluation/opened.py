"""How often test was opened, and by how many recipes.

Whoever trains by many recipes and keeps the one that is best on test has tuned on test, one look at a time. So every
opening is a line in `opened.jsonl` of the prepared data, and a model's report tells how many there are. Another seed of
one recipe is another opening of the same recipe. Data that are prepared anew begin at nought.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from model.prepared.loader import Prepared

FILE = "opened.jsonl"


def opened(data: Prepared, network: str, recipe: Mapping[str, Any], seed: int) -> dict[str, int]:
    """Writes down that a model of this recipe was measured on test, and counts as `count` does."""
    known = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    line = {"data": data.fingerprint, "network": network, "recipe": known, "seed": seed}
    try:
        with (data.folder / FILE).open("a", encoding="utf-8") as file:  # short lines: two trainings do not mix theirs
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        print(f"that test was opened is not counted ({error})", file=sys.stderr)
    return count(data, network, known)


def count(data: Prepared, network: str | None = None, recipe: str | None = None) -> dict[str, int]:
    """How often test of the data was opened, and by how many recipes; by those of a network; by one recipe.

    A line that cannot be read is none.
    """
    lines = []
    if (data.folder / FILE).exists():
        for text in (data.folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
                lines += [(line["network"], line["recipe"])] * (line["data"] == data.fingerprint)
            except (ValueError, KeyError, TypeError):
                continue
    counts = {"times": len(lines), "recipes": len(set(lines))}
    if network is not None:
        counts["recipes_of_network"] = len({line for line in lines if line[0] == network})
        counts["times_by_this_recipe"] = lines.count((network, str(recipe)))
    return counts
