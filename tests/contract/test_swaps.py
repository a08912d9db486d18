"""A model in service is one value: no answer mixes two, whatever is swapped while it is made."""

import asyncio
import gc
import json
import shutil
import threading
import weakref
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import httpx
import numpy as np
import pytest

from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from model.features.catalog import Catalog
from model.features.wanted import Newest, Wanted
from service.app import create_app
from service.call import Call
from service.scoring.scorer import Scorer
from service.scoring.served import Live, Served
from service.settings import Settings
from service.telemetry.folder import prepare_folder
from tests.client import client_of, run
from tests.processes import wait_until

NOW = 1_757_900_000_000
AT_LEAST, AT_MOST = 60, 3000  # requests of each of the callers
Key = tuple[str, int]  # version of the model, number of its catalogue


@pytest.fixture(scope="module")
def other_bundle(small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Version 2: other weights, and golden requests that were recorded with them."""
    folder = tmp_path_factory.mktemp("other") / "bundle"
    shutil.copytree(small_bundle.folder, folder)
    weights = np.memmap(folder / "model.onnx.data", np.float32, "r+")
    weights *= 1.5
    weights.flush()
    manifest = json.loads((folder / "manifest.json").read_text()) | {"version": "2"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    bundle = Bundle.open(folder)
    session = bundle.session()
    golden = json.loads((folder / "golden.json").read_text())
    for request in golden["requests"]:
        request["scores"] = bundle.score(session, bundle.encode_golden(request))[0].tolist()
    (folder / "golden.json").write_text(json.dumps(golden))
    return bundle


def shuffled(bundle: Bundle) -> Catalog:
    """The bundle's catalogue with the features of each item given to the next one."""
    items = bundle.catalog.items()
    columns, _ = bundle.catalog.columns(items)
    return Catalog.build(bundle.schema, items, {name: np.roll(column, 1, axis=0) for name, column in columns.items()})


def scores(items: list[dict[str, Any]]) -> dict[str, float]:
    return {item["item_id"]: item["score"] for item in items}


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    return one.keys() == other.keys() and all(abs(one[item] - other[item]) < 1e-5 for item in one)


def test_no_answer_mixes_two_models_or_two_catalogues(
    small_bundle: Bundle, other_bundle: Bundle, valkey_url: str
) -> None:
    request = small_bundle.golden()[0]
    body = {"user_id": request["user_id"], "candidates": request["candidates"], "timestamp": NOW}
    bundles = {bundle.version: bundle for bundle in (small_bundle, other_bundle)}
    catalogs = (small_bundle.catalog, shuffled(small_bundle))

    async def go() -> set[Key]:
        settings = Settings(
            bundle=small_bundle.folder,
            redis_url=valkey_url,
            history_timeout_ms=5000,
            timeout_ms=60_000,
            score_threads=2,
        )
        async with AsyncExitStack() as stack:
            app = create_app(settings, stack.enter_context(prepare_folder(1)))
            await stack.enter_async_context(app.router.lifespan_context(app))
            live: Live = app.state.live
            transport = httpx.ASGITransport(app=app)
            client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://ranker"))
            scorer = live.current.scorer
            served = {version: Served.open(bundle, scorer, "fp32") for version, bundle in bundles.items()}

            expected: dict[Key, dict[str, float]] = {}
            for version, number in ((version, number) for version in served for number in (0, 1)):
                live.swap(served[version].with_catalog(catalogs[number]))
                answer = (await client.post("/rank", json=body)).json()
                assert answer["version"] == version
                expected[version, number] = scores(answer["items"])
            newer = {key: served[key[0]].with_catalog(catalogs[key[1]]) for key in expected}  # which takes a while
            keys = list(expected)
            assert not any(same(expected[a], expected[b]) for a in keys for b in keys if a < b), "told apart by scores"

            done = threading.Event()

            def swap() -> None:
                for number, version in enumerate(cycle(served)):
                    if done.is_set():
                        return
                    live.swap(served[version])
                    live.change(bundles[version], lambda _, key=(version, number // 2 % 2): newer[key])

            seen: set[Key] = set()

            def judge(version: str, items: list[dict[str, Any]]) -> Key:
                keys = [key for key, of_key in expected.items() if same(of_key, scores(items))]
                assert len(keys) == 1, f"version {version} with scores of {keys or 'no single model and catalogue'}"
                assert keys[0][0] == version, f"version {version} with the scores of {keys[0]}"
                seen.add(keys[0])
                return keys[0]

            async def caller() -> None:
                for number in range(AT_MOST):
                    if number >= AT_LEAST and len(seen) == len(expected):
                        return
                    answer = (await client.post("/rank", json=body)).json()
                    judge(answer["version"], answer["items"])
                    answers = (await client.post("/rank/batch", json=[body] * 3)).json()
                    assert len({judge(one["version"], one["items"]) for one in answers}) == 1

            swaps = threading.Thread(target=swap)
            swaps.start()
            try:
                await asyncio.gather(*(caller() for _ in range(6)))
            finally:
                done.set()
                swaps.join()
            return seen

    assert len(asyncio.run(go())) == 4, "every model with every catalogue has answered"


def test_nothing_keeps_a_catalogue_that_was_replaced(small_bundle: Bundle) -> None:
    """Nor what was made ready of it: each would hold its memory, and its disk space."""
    served, gone = Served.open(small_bundle, Scorer(1), "fp32"), []
    for _ in range(3):
        newer = shuffled(small_bundle)
        served = served.with_catalog(newer)
        assert served.encoder._ready is not None
        gone += [weakref.ref(newer._table), weakref.ref(served.encoder._ready)]
    del newer
    gc.collect()
    assert [one() is None for one in gone] == [True] * 4 + [False] * 2


def test_a_call_bears_the_name_of_the_model_that_it_took(small_bundle: Bundle) -> None:
    scorer = Scorer(1)
    live = Live(replace(Served.open(small_bundle, scorer, "fp32"), slot=3, variant="b"), 100)
    call = Call("r", 0.0)
    served = live.take(call)
    live.swap(replace(served, version="2", slot=4))
    assert (call.model, call.version, call.variant, call.slot) == (small_bundle.name, small_bundle.version, "b", 3)
    assert live.current.version == "2" and served.version == small_bundle.version


def test_a_model_that_reads_more_than_the_store_keeps_never_answers(small_bundle: Bundle) -> None:
    served = Served.open(small_bundle, Scorer(1), "fp32")
    longest = Wanted.of(small_bundle.schema).longest
    live = Live(served, longest)
    for refused in (
        lambda: Live(served, longest - 1),
        lambda: live.swap(replace(served, wanted=Wanted((), (Newest("click", "item", longest + 1),)))),
    ):
        with pytest.raises(BundleError, match=r"reads the newest \d+ behaviours.*RANKER_HISTORY_KEEP=\d+ .*or more"):
            refused()
    assert live.current is served


def test_a_catalogue_of_a_bundle_that_no_longer_answers_is_not_taken_over(
    small_bundle: Bundle, other_bundle: Bundle
) -> None:
    scorer = Scorer(1)
    live = Live(Served.open(small_bundle, scorer, "fp32"), 100)
    live.swap(Served.open(other_bundle, scorer, "fp32"))
    newer = shuffled(small_bundle)
    assert not live.change(small_bundle, lambda served: served.with_catalog(newer))
    assert live.current.catalog is other_bundle.catalog


def test_what_is_served_cannot_be_changed_in_place(small_bundle: Bundle) -> None:
    served = Served.open(small_bundle, Scorer(1), "fp32")
    with pytest.raises(AttributeError):
        served.catalog = shuffled(small_bundle)  # type: ignore[misc]


def test_a_model_that_is_replaced_is_let_go(small_bundle: Bundle, other_bundle: Bundle, valkey_url: str) -> None:
    """What still referred to it would keep its graph and its tables, once more with each swap."""

    def gone(references: list[Any]) -> bool:
        gc.collect()
        return not any(one() for one in references)

    async def go() -> None:
        async with client_of(small_bundle, valkey_url) as client:
            state = client._transport.app.state  # type: ignore[attr-defined]
            for number, following in enumerate((other_bundle, small_bundle, other_bundle), 1):
                for path in ("/openapi.json", "/model", "/metrics"):
                    assert (await client.get(path)).status_code == 200
                asked = {"user_id": "u1", "candidates": ["i1", "i2"]}
                assert (await client.post("/rank", json=asked)).status_code == 200
                before = [weakref.ref(state.live.current.session), weakref.ref(state.live.current.bundle)]
                assert (await state.loading.load(number, following.folder)).problem is None
                assert (await state.loading.switch(number)).problem is None
                wait_until(partial(gone, before), "it is kept")

    run(go())
