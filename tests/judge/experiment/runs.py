"""Three experiments on the same two instances: two networks, two networks and two rules, and one with a kill."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from model.files import write_text
from service.settings import DEMO_BUNDLE
from service.variants.counting import FLUSH_S
from tests.client import get
from tests.faults.store.server import real_store
from tests.judge.calling import Deed, called
from tests.judge.experiment import bundles
from tests.judge.experiment.crowd import Crowd
from tests.judge.experiment.tally import Tally, deviations
from tests.judge.experiment.visitor import TOP, WINDOW_S, Hall, Visitor, user_id
from tests.judge.judged import Judged
from tests.judge.stage import SETTINGS, Instances

SEED = 17
MOST_DEVIATIONS = 4.0  # of users from a share: one run in 16,000 is beyond it by chance
SETTLES_S, BUSY_S = 10.0, 1.0  # until counts stand still; that a flush may take longer on a busy machine
SENT_AT_ONCE = 1000


class Course(NamedTuple):
    """One experiment: its variants by name, what stands in their tables, and how the world has them, best first."""

    salt: str
    variants: Mapping[str, str]
    best_first: Sequence[str]


class Stage(Instances):
    """Two instances that watch one experiments.toml, and the crowd before them."""

    def __init__(self, folder: Path, url: str, users: int):
        self.file, self.crowd = folder / "experiments.toml", Crowd(users, SEED)
        super().__init__(redis_url=url, bundle=str(DEMO_BUNDLE), experiments=str(self.file))

    def write(self, course: Course) -> None:
        head = f'salt = "{course.salt}"\nstart = 2026-01-01T00:00:00Z\nwindow_s = {WINDOW_S}\n'
        share = 1 / len(course.variants)
        tables = [f'[[variants]]\nname = "{name}"\nshare = {share}\n{is_}' for name, is_ in course.variants.items()]
        write_text(self.file, "\n".join([head, *tables]))

    async def introduce(self) -> None:
        """Everybody's clicks before."""
        told = [
            {"event": "click", "user_id": user_id(user), "item_id": item, "timestamp": at}
            for user, item, at in self.crowd.behaviours()
        ]
        for begin in range(0, len(told), SENT_AT_ONCE):
            await self.ask(0, "POST", "/feedback", told[begin : begin + SENT_AT_ONCE], Tally().retried)

    async def told(self, instance: int) -> Any:
        return await self.ask(instance, "GET", "/experiments", b"", Tally().retried)

    def taken_over(self, instance: int) -> float:
        """How often its workers took a file over."""
        text = get(f"{self.instances[instance].service.url}/metrics")
        families = text_string_to_metric_families(text)
        (reloads,) = [family for family in families if family.name == "ranker_experiment_reloads"]
        return sum(one.value for one in reloads.samples if one.labels.get("outcome") == "ok")

    async def swap(self, course: Course) -> None:
        """Another file, taken over by all workers."""
        before = [self.taken_over(0), self.taken_over(1)]
        self.write(course)
        until = time.monotonic() + SETTLES_S
        while any(self.taken_over(at) < had + int(SETTINGS["workers"]) for at, had in enumerate(before)):
            assert time.monotonic() < until, f"{course.salt} is not taken over: {self.instances[0].service}"
            await asyncio.sleep(0.05)


async def visited(stage: Stage, salt: str, users: int, happens: Sequence[Deed] = ()) -> Tally:
    tally = Tally()
    hall = Hall(stage.crowd, stage, tally, f"{SEED}-{salt}")
    await called((Visitor(user, hall).browse for user in range(users)), users, happens)
    return tally


async def restart(stage: Stage) -> None:
    await asyncio.to_thread(stage.instances[1].end)
    stage.instances[1].start()
    await asyncio.to_thread(stage.instances[1].ready)


class Kill:
    """SIGKILL to one instance, its workers with it; then it starts again."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self.begun_s = self.done_s = 0.0

    async def __call__(self) -> None:
        instance = self._stage.instances[1]
        self.begun_s = time.monotonic()
        await asyncio.to_thread(instance.kill)
        self.done_s = time.monotonic()
        instance.start()
        await asyncio.to_thread(instance.ready)


# ---- what is judged


def counts_of(told: Any) -> dict[str, tuple[int, int, int]]:
    return {one["name"]: (one["users"], one["impressions"], one["clicks"]) for one in told["experiment"]["variants"]}


async def settled(stage: Stage, instance: int, ours: Mapping[str, tuple[int, int, int]]) -> Any:
    """What it tells when all workers brought what they counted, and nothing more comes."""
    until = time.monotonic() + SETTLES_S
    while counts_of(await stage.told(instance)) != ours and time.monotonic() < until:
        await asyncio.sleep(0.1)
    await asyncio.sleep(FLUSH_S + 0.5)
    return await stage.told(instance)


async def judge(judged: Judged, stage: Stage, course: Course, tally: Tally, exact: bool = True) -> dict[str, Any]:
    """What both instances tell of an experiment beside our own count and the truth; gives the figures."""
    names = list(course.variants)
    ours = {name: (tally.users(name), tally.impressions(name), tally.clicks[name]) for name in names}
    for instance in range(2):
        told = await settled(stage, instance, ours) if exact and not instance else await stage.told(instance)
        theirs = counts_of(told)
        if exact:
            judged.equal(f"{course.salt}: users, impressions, clicks by instance {instance}", ours, theirs)
        else:
            clicks = [{name: counts[2] for name, counts in some.items()} for some in (ours, theirs)]
            judged.equal(f"{course.salt}: clicks by instance {instance}", *clicks)
    ratio = told["experiment"]["sample_ratio"]
    judged.promise(not tally.moved and not ratio["users_in_several"], "no user sees two variants", tally.moved[:3])
    judged.promise(ratio["well"], f"{course.salt}: the sample ratio is no alarm", ratio)
    judged.promise(not tally.wrong, "/feedback keeps what is sound", tally.wrong[:3])
    judged.promise(told["refused"] is None, "no file is refused", told["refused"])
    of = sum(users for users, _, _ in ours.values())
    for name, (users, _, _) in ours.items():
        off = deviations(users, of, 1 / len(names))
        judged.promise(off < MOST_DEVIATIONS, f"{course.salt}: {name} gets its share of {of} users", users)
    figures = {"counts": ours, "of_share": {name: round(ours[name][0] / of, 4) for name in names}}
    figures |= {"mistakes": dict(tally.mistakes), "retried": dict(tally.retried)}
    return figures | {"gain": _gains(judged, course, tally, told)}


def _gains(judged: Judged, course: Course, tally: Tally, told: Any) -> dict[str, Any]:
    """The truth lies in the intervals, and variants stand as the world has them."""
    control, gains = told["experiment"]["control"], {}
    for one in told["experiment"]["variants"]:
        if one["name"] == control:
            continue
        truth = tally.true_rate(one["name"]) / tally.true_rate(control) - 1
        low, high = one["gain"]["low"], one["gain"]["high"]
        gains[one["name"]] = {"true": round(truth, 4)} | {part: _rounded(v) for part, v in one["gain"].items()}
        if low is not None:
            judged.promise(
                low <= truth <= high, f"{course.salt}: {one['name']}: the true gain {truth:+.4f}", one["gain"]
            )
    if course.best_first:
        rate = {one["name"]: one["ctr"] for one in told["experiment"]["variants"]}
        best_first = [*course.best_first]
        judged.equal("by the truth, best first", best_first, sorted(rate, key=tally.true_rate, reverse=True))
        judged.equal("by CTR, best first", best_first, sorted(rate, key=rate.__getitem__, reverse=True))
    return gains


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


async def killed(judged: Judged, stage: Stage, course: Course, users: int) -> dict[str, Any]:
    """No acknowledged click is lost; of what was shown, the last flush of the instance that was killed."""
    kill = Kill(stage)
    tally = await visited(stage, course.salt, users, [kill])
    await asyncio.sleep(FLUSH_S + BUSY_S)
    figures = await judge(judged, stage, course, tally, exact=False)
    theirs = counts_of(await stage.told(0))
    lost = sum(counts[1] - theirs[name][1] for name, counts in figures["counts"].items())
    most = tally.last(1, kill.begun_s - FLUSH_S - BUSY_S, kill.done_s)
    unseen = TOP * tally.retried["rank: Lost"]  # counted, and killed before the answer was sent
    judged.promise(-unseen <= lost <= most, "only impressions of the last second are lost", f"{lost} of {most}")
    missing = sum(counts[0] - theirs[name][0] for name, counts in figures["counts"].items())
    judged.promise(0 <= missing <= max(lost, 0), "no user is lost of whom anything is known", missing)
    return figures | {"lost": lost, "answered_in_the_last_seconds": most, "users_lost": missing}


def experiment(users: int, networks: Mapping[str, str] | None = None) -> Judged:
    """`networks`: variants instead of Wide & Deep and BST, of which no order is known."""
    judged, begun = Judged("experiment"), time.perf_counter()
    with TemporaryDirectory(prefix="ranker-judge-") as folder, real_store() as store:
        order: tuple[str, ...] = ()
        if networks is None:
            control = f'bundle = "{bundles.wide_and_deep(Path(folder))}"\n'
            networks, order = {"wdl": control, "bst": ""}, ("bst", "wdl", "popularity", "random")
        judged.figures["prepared_s"] = round(time.perf_counter() - begun, 1)
        rules = {name: f'builtin = "{name}"\n' for name in ("popularity", "random")}
        two = Course("two", networks, [name for name in order if name in networks])
        four = Course("four", {**networks, **rules}, order)
        kill = Course("kill", networks, ())
        stage = Stage(Path(folder), store.url, users)
        try:
            stage.write(two)
            stage.start()
            asyncio.run(_all(judged, stage, two, four, kill, users))
        finally:
            stage.close()
    judged.figures["seconds"] = round(time.perf_counter() - begun, 1)
    return judged


async def _all(judged: Judged, stage: Stage, two: Course, four: Course, kill: Course, users: int) -> None:
    try:
        await stage.introduce()
        tally = await visited(stage, two.salt, users, [partial(restart, stage)])
        judged.figures["two"] = await judge(judged, stage, two, tally)
        await stage.swap(four)
        tally = await visited(stage, four.salt, users)
        judged.figures["four"] = await judge(judged, stage, four, tally)
        await stage.swap(kill)
        judged.figures["kill"] = await killed(judged, stage, kill, max(1, users // 4))
    finally:
        stage.hang_up()
