"""A bundle's catalogue, exchanged: `swap` puts another in its place, `undo` the one before."""

import sys
from pathlib import Path
from typing import Any

from model.bundle import swapping
from model.bundle.layout import CATALOG, GOLDEN_CATALOG, PREVIOUS_CATALOG, BundleError, located, verify_catalog
from model.bundle.reading import Bundle
from model.bundle.writing import add_golden_catalog
from model.cataloguing.building import Difference, build, difference, merged
from model.cataloguing.tables import read_items
from model.features import schema as features_toml
from model.features.catalog import Catalog, CatalogError
from model.features.schema import Schema
from model.prepared.entities import PrepareError

MOST_DROPPED = 0.1  # of the catalogue, unless --shrink says that it is meant


def swap(
    path: Path, items: Path, merge: bool = False, shrink: bool = False, keep: int = swapping.KEPT
) -> tuple[Path, Difference]:
    """Puts the catalogue of the table `items` into the bundle at `path`; the one before is kept for `undo`.

    Raises PrepareError, also where more than a tenth of the items would go and not `shrink`; BundleError, SchemaError,
    OSError.
    """
    folder, manifest = located(path)
    schema = features_toml.load(folder / "features.toml")
    table = read_items(items, schema)
    older: Catalog | None = None
    try:
        older = _in_place(folder, manifest, schema)
    except (BundleError, CatalogError) as error:
        if merge or GOLDEN_CATALOG not in manifest["files"]:
            raise
        print(f"catalog: replaces a catalogue that is broken: {error}", file=sys.stderr)
    newer = merged(older, table, schema) if merge and older is not None else build(schema, table.table)
    unused = [name for name in table.table.columns if name not in {f.name for f in schema.side("item")}]
    if unused:
        print(f"catalog: passed over, no item features of this bundle: {', '.join(unused)}", file=sys.stderr)

    change = difference(older, newer)
    if older is not None and not shrink and change.removed > MOST_DROPPED * len(older):
        raise PrepareError(
            f"{items} leaves out {change.removed} of the catalogue's {len(older)} items, more than a tenth: --merge "
            "keeps them, --shrink drops them; nothing is changed"
        )
    if GOLDEN_CATALOG not in manifest["files"]:
        add_golden_catalog(Bundle.open(folder))
    kept = older is not None and any(change[1:])
    swapping.replace(folder / CATALOG, folder / PREVIOUS_CATALOG, newer.save, kept, keep)
    return folder / CATALOG, change


def undo(path: Path) -> tuple[Path, Difference]:
    """Exchanges the bundle's catalogue and the one before the last swap. Raises BundleError, CatalogError, OSError."""
    folder, manifest = located(path)
    schema = features_toml.load(folder / "features.toml")
    current, previous = folder / CATALOG, folder / PREVIOUS_CATALOG
    if not previous.is_file():
        raise BundleError(f"{previous} is not there: no catalogue before this one is kept, nothing to go back to")
    before = _in_place(folder, manifest, schema, PREVIOUS_CATALOG)
    now: Catalog | None = None
    try:
        now = _in_place(folder, manifest, schema)
    except (BundleError, CatalogError) as error:
        print(f"catalog: replaces a catalogue that is broken: {error}", file=sys.stderr)
    change = difference(now, before)
    swapping.exchange(current, previous, now is not None)
    return current, change


def _in_place(folder: Path, manifest: dict[str, Any], schema: Schema, name: str = CATALOG) -> Catalog:
    """The catalogue that the bundle has now, its hash compared. Raises BundleError, CatalogError."""
    verify_catalog(folder, manifest, name)
    return Catalog.open(folder / name, schema)
