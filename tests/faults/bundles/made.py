"""Versions of the demo bundle side by side in a home with `current`: two that rank differently, and damaged ones."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from model.bundle.reading import Bundle
from model.bundle.writing import amend
from service.settings import DEMO_BUNDLE
from tests.client import Service, serving

FIRST, SECOND = "1", "2"
WEIGHTS = "model.onnx.data"


class Home:
    """A folder of versions. `point` moves `current` as a release does: a link beside, renamed over it."""

    def __init__(self, folder: Path):
        self.folder, self.current = folder, folder / "current"
        self.first, self.second = self._version(FIRST, 1.0), self._version(SECOND, 1.5)
        self.point(FIRST)

    def _version(self, version: str, factor: float) -> Bundle:
        folder = Path(shutil.copytree(DEMO_BUNDLE, self.folder / version))
        weights = np.memmap(folder / WEIGHTS, np.float32, "r+")
        weights *= factor
        weights.flush()
        bundle = Bundle.open(folder)
        session, golden = bundle.session(), json.loads((folder / "golden.json").read_text())
        for request in golden["requests"]:
            request["scores"] = bundle.score(session, bundle.encode_golden(request))[0].tolist()
        amend(bundle, {"golden.json": golden}, {"version": version}, [WEIGHTS])
        return Bundle.open(folder)

    def copy(self, name: str) -> Path:
        """Of the second version, for a fault to damage."""
        return Path(shutil.copytree(self.folder / SECOND, self.folder / name))

    def versions(self) -> list[str]:
        """What lies in the home, a lock aside."""
        return sorted(path.name for path in self.folder.iterdir() if path.suffix != ".lock")

    def point(self, name: str) -> None:
        beside = self.folder / "current.new"
        beside.unlink(missing_ok=True)
        beside.symlink_to(name)
        os.replace(beside, self.current)


@contextmanager
def serving_a_home(**settings: str) -> Iterator[Service]:
    """A service whose RANKER_BUNDLE is a home of two versions, the first of them live."""
    with TemporaryDirectory(prefix="ranker-faults-") as folder:
        home = Home(Path(folder))
        with serving(bundle=folder, **settings) as service:
            service.home = home  # type: ignore[attr-defined]
            yield service


def home_of(service: Service) -> Home:
    home: Home = service.home  # type: ignore[attr-defined]
    return home
