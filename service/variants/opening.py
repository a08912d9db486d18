"""A plan made into models: each variant's bundle opened, proven and warmed beside those that answer."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from model.bundle.errors import BundleError
from model.bundle.precision import Precision
from model.bundle.reading import Bundle
from service.models.announced import announced
from service.models.target import Target, target_of
from service.scoring import catalog
from service.scoring.scorer import Scorer
from service.scoring.served import Builtin, Live, Served
from service.store.ledger import Ledger
from service.telemetry.counts import Metrics
from service.variants.builtin import Popularity, by_chance
from service.variants.counting import Counting, clicked_ttl_s
from service.variants.experiment import Arm, Experiment
from service.variants.plan import Plan, Variant
from service.variants.sharing import sharing

log = logging.getLogger("ranker")

STORE_S = 1.0  # that the ledger has for one exchange


class Opening:
    """Makes experiments for one worker, whose own model stands in `live`."""

    def __init__(
        self,
        live: Live,
        scorer: Scorer,
        precision: Precision,
        keep: int,
        metrics: Metrics,
        store: str,
        looked: Callable[[str, object], None],
        key: bytes,
    ):
        """`looked` is told of catalogues (None: refused) that variants take over. `key`: of hashes in request ids."""
        self._key = key
        self._live, self._scorer, self._precision, self._keep = live, scorer, precision, keep
        self._metrics, self._store, self._looked = metrics, store, looked

    def opened(
        self,
        plan: Plan,
        text: str,
        seen: tuple[Target, ...],
        before: Experiment | None,
        pause: Callable[[], object] = lambda: None,
    ) -> Experiment:
        """Blocks until all models are warm. Raises BundleError, OSError; then nothing has changed.

        `seen`: the stamps of the plan's bundles.

        What `before` has already is taken from it: models of the same bundles, and the counts of the same salt.
        """
        loaded: dict[str, tuple[Served, float]] = {}
        for variant in plan.variants:
            begun = time.perf_counter()
            loaded[variant.name] = self._loaded(variant, before, pause), time.perf_counter() - begun
        arms: dict[str, Arm] = {}
        try:
            for variant in plan.variants:
                arms[variant.name] = self._arm(variant, *loaded[variant.name])
        except (BundleError, ValueError) as error:
            for arm in arms.values():
                arm.leave()
            raise BundleError(str(error)) from None
        if before is not None and before.plan.id == plan.id:
            counting = before.counting
            counting.go_on(plan)
        else:
            counting = Counting(plan, Ledger(self._store, plan.id, STORE_S, clicked_ttl_s(plan)), self._key)
        return Experiment(plan, arms, counting, text, seen)

    def _loaded(self, variant: Variant, before: Experiment | None, pause: Callable[[], object]) -> Served:
        default = self._live.current
        if variant.builtin is not None:
            return replace(default, variant=variant.name, name=variant.builtin, builtin=_builtin(variant, default))
        if variant.bundle is None:
            return replace(default, variant=variant.name)
        target = target_of(variant.bundle)
        if before is not None and target in before.stamps:  # the same manifest, too
            for arm in before.arms.values():
                if arm.variant.bundle is not None and arm.live.current.bundle.folder == target.folder:
                    return replace(arm.live.current, variant=variant.name)
        bundle = Bundle.open(variant.bundle)
        bundle.verify_swapped()
        served = Served.open(bundle, self._scorer, self._precision, pause)
        if served.encoder.schema.user_id != default.encoder.schema.user_id:
            raise BundleError(f"{bundle.folder}: its users' ids are {served.encoder.schema.user_id}, others' are not")
        len(served.catalog)  # counted here and not on the event loop
        return replace(sharing(served, default), variant=variant.name)

    def share(self, experiment: Experiment) -> None:
        """After another catalogue, counts or model: what arms have alike with what RANKER_BUNDLE leads to."""
        default = self._live.current
        for arm in experiment.arms.values():
            served = arm.live.current
            if arm.watch is not None and sharing(served, default) is not served:
                arm.live.change(served.bundle, lambda now: sharing(now, default))

    def _arm(self, variant: Variant, served: Served, load_s: float) -> Arm:
        live = Live(announced(self._metrics, served, load_s), self._keep)
        if variant.bundle is not None:
            watch = catalog.Watch(
                live,
                0,
                (
                    (catalog.CATALOGUE, lambda newer: self._looked("ranker_catalog_reloads", newer)),
                    (catalog.STATISTICS, lambda newer: self._looked("ranker_statistics_reloads", newer)),
                ),
            )
            return Arm(variant, live, watch)

        def followed(default: Served) -> None:
            """Another model, or its newer catalogue or counts."""
            now = live.current
            named, builtin = default.name if variant.builtin is None else now.name, now.builtin
            if default.bundle.folder != now.bundle.folder:
                try:
                    builtin = _builtin(variant, default)
                except BundleError as error:
                    log.error("variant %s goes on with %s: %s", variant.name, now.bundle.folder, error)
                    return
            newer = replace(default, variant=variant.name, name=named, builtin=builtin, slot=now.slot)
            if (newer.name, newer.version) != (now.name, now.version):
                newer = announced(self._metrics, newer, 0.0)
                self._metrics.retire(now.slot)
            live.swap(newer)

        leave = self._live.follow(followed)
        followed(self._live.current)  # another one may have gone live since this was opened
        return Arm(variant, live, None, leave)


def _builtin(variant: Variant, default: Served) -> Builtin | None:
    """Raises BundleError."""
    if variant.builtin is None:
        return None
    return Popularity(default.encoder) if variant.builtin == "popularity" else by_chance


def stamps(plan: Plan) -> tuple[Target, ...]:
    """What tells one state of a plan's bundles from another."""
    return tuple(target_of(bundle) for _, bundle in plan.bundles)


def memory_mb(experiment: Experiment) -> float:
    """What the bundles beside the first take on disk: so much of it as is used is in memory, once for all workers."""
    folders = {arm.live.current.bundle.folder for arm in experiment.arms.values() if arm.watch is not None}
    return sum(_size(folder) for folder in folders) / 1e6


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for root, _, names in os.walk(folder) for entry in [Path(root) / n for n in names])
