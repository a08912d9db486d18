"""Another version of a bundle, on embedding tables in fp16 or int8; made only if it ranks as well.

    python -m model.export --bundle DIR --tables fp16|int8

A version stands for its scores, in logs as in experiments, so other tables make another version: the one that it was
made from stays as it is, to go back to. Files that do not change are shared with it on the disk. What tables.py does to
the graphs is judged by gate.py as int8's products are: the serving graph, and the int8 graph where the bundle has one,
each against the fp32 graph on fp32 tables. Golden requests are recorded anew, with the scores that are served.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from model.bundle import versions
from model.bundle.layout import ATTENTION_GRAPH, GOLDEN, GRAPH, INT8, INT8_GRAPH, REPORT, TABLES
from model.bundle.reading import Bundle
from model.bundle.writing import writing
from model.features.catalog import FOLDER
from model.files import another_name, write_json
from model.graph import golden
from model.graph.attention import record_anew
from model.graph.gate import Bounds, judge
from model.graph.tables import DATA, GRAPHS, LEAST_ROWS, TablesError, narrow_graphs
from model.prepared.loader import Prepared

OWN = ("schema_version", "version", "exported_at", "made_with", "files")  # what a version says of itself alone


def narrow(
    bundle: Bundle, data: Prepared, form: str, bounds: Bounds | None = None, least_rows: int = LEAST_ROWS
) -> dict[str, Any]:
    """Makes the version, and `current` point to it where it pointed to this one; gives the gate's figures.

    Those of the int8 graph stand among them under `int8`. Where the gate refuses, nothing is made, and `bundle` is
    None. Raises TablesError, BundleError.
    """
    if bundle.manifest["objective"] != "click":
        raise TablesError(f"objective {bundle.manifest['objective']!r}: the gate is an AUC, of clicks alone")
    if bundle.tables != "fp32":
        older = bundle.manifest[TABLES]["of"]
        raise TablesError(
            f"{bundle.folder} has {bundle.tables} tables: name the version that it was made from, {older}"
        )
    home = bundle.folder.parent
    facts = {name: fact for name, fact in bundle.manifest.items() if name not in OWN}
    with writing(home.parent, home.name, facts) as draft:
        draft.publish = versions.current(home) == bundle.folder.name
        tables = narrow_graphs(bundle.folder, draft.folder, form, least_rows)
        narrowed = _with_the_rest(bundle, draft.folder)
        whole = bundle.session()
        figures = judge(narrowed, data, draft.folder / GRAPH, bounds, whole, form)
        write_json(draft.folder / GOLDEN, golden.scored(narrowed, narrowed.golden()))
        judged = {TABLES: figures}
        if (draft.folder / INT8_GRAPH).exists():
            judged[INT8] = judge(narrowed, data, draft.folder / INT8_GRAPH, bounds, whole)
            figures["refused"] += [f"the int8 graph on them: {why}" for why in judged[INT8]["refused"]]
        if (draft.folder / ATTENTION_GRAPH).exists():
            record_anew(narrowed)
        figures |= {
            "accepted": not figures["refused"],
            "form": form,
            "of": bundle.version,
            "least_rows": least_rows,
            "tables": {table.name: table.facts() for table in tables},
            "bytes": {"before": _weights(bundle.folder), "after": _weights(draft.folder)},
        }
        report = json.loads((bundle.folder / REPORT).read_text())
        write_json(draft.folder / REPORT, report | judged)
        draft.facts |= judged
        draft.keep = figures["accepted"]
        version = draft.version if draft.keep else None
    made = {"bundle": str(home / version) if version else None, "published": draft.keep and draft.publish}
    return made | figures | {key: other for key, other in judged.items() if key == INT8}


def _with_the_rest(bundle: Bundle, folder: Path) -> Bundle:
    """The version that is being made, with all files but those that are already there.

    Those that swaps replace and touch are its own.
    """
    listed = {name: fact for name, fact in bundle.manifest["files"].items() if name not in (*GRAPHS, DATA)}
    for name in listed:
        (folder / name).parent.mkdir(exist_ok=True)
        if name.startswith(f"{FOLDER}/"):
            shutil.copy2(bundle.folder / name, folder / name)
        else:
            another_name(bundle.folder / name, folder / name)
    return Bundle(folder, bundle.manifest | {"files": listed})


def _weights(folder: Path) -> int:
    return (folder / DATA).stat().st_size
