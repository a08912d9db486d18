"""Two bundles with the same vocabularies, catalogue and counts: what answers is each one's own, what is read is one."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from model.bundle.layout import CATALOG
from model.bundle.reading import Bundle
from model.features.ids import keys
from service.scoring.catalog import CATALOGUE, Watch
from tests.client import client_of, items_of, run
from tests.experimenting import DEMO, GOOD
from tests.versions import version


def scores(served: Any, encoder: Any = None, catalog: Any = None) -> Any:
    items, now = items_of(DEMO, 12), time.time_ns() // 1_000_000
    inputs = (encoder or served.encoder).encode("u1", {}, [], items, now, catalog or served.catalog).inputs
    return served.run(inputs)


def test_what_two_bundles_have_alike_is_in_memory_once_until_one_of_them_has_it_anew(
    valkey_url: str, tmp_path: Path
) -> None:
    first = Bundle.open(shutil.copytree(DEMO.folder, tmp_path / "first"))
    beside = Bundle.open(version(DEMO, tmp_path, "beside", 1.3))
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD.replace('builtin = "random"', 'bundle = "beside"'))

    async def scenario(client: httpx.AsyncClient) -> None:
        app: Any = client._transport.app  # type: ignore[attr-defined]
        live, following = app.state.live, app.state.variants.following
        watch = Watch(live, 0, ((CATALOGUE, lambda newer: None),))

        def look() -> tuple[Any, Any]:
            watch.look()
            following.look()
            return live.current, following.experiment.arms["chance"].live.current

        def alike(one: Any, other: Any) -> tuple[bool, bool]:
            assert one.encoder.vocabularies is other.encoder.vocabularies
            return one.catalog.shares(other.catalog), one.encoder.counts.shares(other.encoder.counts)

        default, arm = look()
        assert alike(default, arm) == (True, True) and look() == (default, arm), "and nothing is done twice"
        assert arm.catalog.stamp != default.catalog.stamp and arm.version == "beside"
        np.testing.assert_array_equal(scores(arm), scores(arm, beside.encoder, beside.catalog))
        assert (scores(arm) != scores(default)).any()

        fewer = first.catalog.only(keys(items_of(DEMO, 6), "str"))
        fewer.save(beside.folder / CATALOG)
        default, arm = look()
        assert (len(arm.catalog), len(default.catalog)) == (6, len(DEMO.catalog))
        assert alike(default, arm) == (False, True)
        fewer.save(first.folder / CATALOG)
        default, arm = look()
        assert alike(default, arm) == (True, True) and len(arm.catalog) == len(default.catalog) == 6

        other = Bundle.open(first.folder)
        files = other.manifest["files"] | {"features.toml": {"sha256": "another"}}
        other.manifest = other.manifest | {"files": files}
        live.swap(replace(live.current, bundle=other))
        default, arm = look()
        assert arm.encoder.vocabularies is arm.bundle.encoder.vocabularies and arm.catalog is arm.bundle.catalog
        assert arm.encoder.vocabularies is not default.encoder.vocabularies, "nothing of the first is kept"
        assert arm.encoder._ready is not default.encoder._ready

    async def go() -> None:
        async with client_of(first, valkey_url, experiments=path, catalog_poll_s=0) as client:
            await scenario(client)

    run(go())
