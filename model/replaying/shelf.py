"""Every version of bundles, catalogues and counts below a folder, found by what the log calls them."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from model.bundle import versions
from model.bundle.errors import BundleError
from model.bundle.layout import (
    CATALOG,
    COUNTS,
    GOLDEN_TOLERANCE,
    INT8,
    OLDER,
    PREVIOUS_CATALOG,
    PREVIOUS_COUNTS,
    located,
)
from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.features.catalog import KIND as CATALOGUE
from model.features.catalog import Catalog, CatalogError
from model.features.counts import KIND as STATISTICS
from model.features.counts import Counts, CountsError
from model.features.sealed import seal

OPEN = 16  # bundles, sessions, catalogues and counts at once, mapped into memory

T = TypeVar("T")
Model = tuple[str, str]  # name and version


class Absent(Exception):
    """What the log names is not there; says which, and what is."""

    def __init__(self, stage: str, text: str):
        super().__init__(text)
        self.stage = stage


class Shelf:
    """The bundles below `root`, which may be one of them. Raises BundleError where there is none."""

    def __init__(self, root: Path):
        self._copies: dict[Model, list[Path]] = defaultdict(list)  # a version may lie at several places
        for folder in _folders(root):
            try:
                _, manifest = located(folder)
            except BundleError:
                continue  # of another release; what the log names of it will be absent
            self._copies[manifest["name"], manifest["version"]].append(folder)
        if not self._copies:
            raise BundleError(f"{root} holds no bundle: no manifest.json of one lies below it")
        self._kept: dict[Hashable, Any] = {}

    def bundle(self, model: Model) -> Bundle:
        return self._once(("bundle", model), lambda: self._bundle(model))

    def session(self, model: Model, precision: str) -> Session:
        """The graph that answered. Raises Absent where this machine cannot run it."""
        return self._once(("session", model, precision), lambda: self._session(model, precision))

    def catalog(self, model: Model, sha256: str) -> Catalog:
        return self._once(("catalogue", model, sha256), lambda: self._catalog(model, sha256))

    def counts(self, model: Model, sha256: str) -> Counts:
        return self._once(("statistics", model, sha256), lambda: self._counts(model, sha256))

    def tolerance(self, model: Model, precision: str, fp32: float) -> float:
        """How far a score may be off: of an int8 graph as far as where a service proves it on the golden requests."""
        if precision != INT8:
            return fp32
        figures = self.bundle(model).manifest.get(INT8) or {}
        return max(fp32, 2 * float(figures.get("golden_max_abs_diff", 0)) + GOLDEN_TOLERANCE)

    def _once(self, key: Hashable, open: Callable[[], T]) -> T:
        """What was opened before, or what was not there then; the longest kept goes where many are."""
        if key not in self._kept:
            try:
                self._kept[key] = open()
            except Absent as absent:
                self._kept[key] = absent
            while len(self._kept) > OPEN:
                self._kept.pop(next(iter(self._kept)))
        kept: T | Absent = self._kept[key]
        if isinstance(kept, Absent):
            raise kept
        return kept

    def _bundle(self, model: Model) -> Bundle:
        if model not in self._copies:
            there = ", ".join(map(" ".join, sorted(self._copies)[-5:]))
            raise Absent("bundle", f"bundle {' '.join(model)} is not there; there are {there}")
        return Bundle.open(self._copies[model][0])

    def _session(self, model: Model, precision: str) -> Session:
        bundle = self.bundle(model)
        if precision != INT8:
            return bundle.session()
        try:
            return bundle.int8_session()
        except BundleError as error:
            raise Absent("int8", str(error)) from None

    def _catalog(self, model: Model, sha256: str) -> Catalog:
        path = self._sealed(model, sha256, (CATALOG, PREVIOUS_CATALOG), CATALOGUE, "catalogue")
        try:
            return Catalog.open(path, self.bundle(model).schema)
        except (CatalogError, OSError) as error:
            raise Absent("catalogue", str(error)) from None

    def _counts(self, model: Model, sha256: str) -> Counts:
        path = self._sealed(model, sha256, (COUNTS, PREVIOUS_COUNTS), STATISTICS, "statistics")
        try:
            return Counts.open(path, self.bundle(model).schema)
        except (CountsError, OSError) as error:
            raise Absent("statistics", str(error)) from None

    def _sealed(self, model: Model, sha256: str, names: tuple[str, str], kind: str, stage: str) -> Path:
        """A version's file by the sha256 at its end: the one in place, or one of before a swap."""
        there = {}
        for folder in self._copies[model]:
            older = (folder / OLDER).glob(f"{Path(names[0]).stem}-*.npy")
            for path in (*(folder / name for name in names), *older):
                if path.is_file() and (sealed := seal(path, kind)) is not None:
                    there[sealed.sha256] = path
            unsealed = folder / names[0]  # written by a release before seals
            if unsealed not in there.values() and names[0] in (files := self.bundle(model).manifest["files"]):
                there[files[names[0]]["sha256"]] = unsealed
        if sha256 not in there:
            raise Absent(
                stage,
                f"{stage} {sha256[:12]}… of {' '.join(model)} is not there: swapped out and not kept (model.catalog "
                f"--keep)? There are {', '.join(f'{one[:12]}…' for one in there)}",
            )
        return there[sha256]


def _folders(root: Path) -> Iterator[Path]:
    """Folders with a manifest below `root`, and the one that it leads to; each once."""
    seen = set()
    below = (path.parent for path in sorted(root.rglob("manifest.json")))
    hidden = (p for p in below if not any(part.startswith(".") for part in p.relative_to(root).parts))
    for folder in (versions.behind(root), *hidden):
        if (folder / versions.MANIFEST).is_file() and (folder := folder.resolve()) not in seen:
            seen.add(folder)
            yield folder
