"""The histories that are remembered for when the store fails, by a clock that is given in."""

from model.features.behaviour import Behaviour
from model.features.wanted import Newest, Wanted
from service.store.fallback.recent import Recent, covers
from service.store.history import CACHED, Asked, Stored

WANTED = Wanted(("age",), (Newest("click", "item", 20),))
LIVE = Asked("u", None)


def stored(*times: int) -> Stored:
    return Stored({"age": "30"}, [Behaviour("click", "item", f"i{time}", time) for time in times], 0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_live_request_gets_what_the_last_live_request_read() -> None:
    recent = Recent(10, 60)
    recent.keep("u", WANTED, stored(1))
    recent.keep("u", WANTED, stored(1, 2))
    assert recent.find(LIVE, WANTED) == stored(1, 2)._replace(missing=CACHED)
    assert recent.find(Asked("other", None), WANTED) is None


def test_a_replay_gets_what_happened_strictly_before_and_hears_that_older_ones_may_be_missing() -> None:
    recent = Recent(10, 60)
    recent.keep("u", WANTED, stored(1, 2, 3))
    assert recent.find(Asked("u", 3), WANTED) == stored(1, 2)._replace(missing=CACHED, complete=False)
    assert recent.find(Asked("u", 4), WANTED) == stored(1, 2, 3)._replace(missing=CACHED)


def test_impressions_of_the_day_are_remembered_for_that_day_and_for_no_replay() -> None:
    recent = Recent(10, 60)
    recent.keep("u", WANTED, stored(1)._replace(shown_today=7), today=100)
    of_day = {today: recent.find(Asked("u", None, today), WANTED) for today in (100, 200, None)}
    assert {today: one and one.shown_today for today, one in of_day.items()} == {100: 7, 200: -1, None: -1}
    replayed = recent.find(Asked("u", 150, 100), WANTED)
    assert replayed is not None and replayed.shown_today == -1


def test_what_is_too_old_is_not_known() -> None:
    clock = Clock()
    recent = Recent(10, 60, clock)
    recent.keep("u", WANTED, stored(1))
    clock.now = 60
    assert recent.find(LIVE, WANTED)
    clock.now = 60.1
    assert recent.find(LIVE, WANTED) is None


def test_it_holds_the_users_read_last_and_no_more_than_it_may() -> None:
    recent = Recent(10, 60)
    for n in range(100):
        recent.keep(str(n), WANTED, stored(n))
        known = {user for user in range(100) if recent.find(Asked(str(user), None), WANTED)}
        assert known == set(range(max(0, n - 9), n + 1))
    recent.keep("90", WANTED, stored(90))
    recent.keep("100", WANTED, stored(100))
    assert recent.find(Asked("90", None), WANTED) and not recent.find(Asked("91", None), WANTED)


def test_what_is_too_old_leaves_memory_with_the_writes_that_follow() -> None:
    clock = Clock()
    recent = Recent(1000, 60, clock)
    recent.keep("u", WANTED, stored(1))
    clock.now = 61
    recent.keep("other", WANTED, stored(1))
    assert list(recent._entries) == ["other"]


def test_either_bound_being_0_turns_it_off() -> None:
    assert Recent(1, 1).on and not Recent(0, 1).on and not Recent(1, 0).on


def test_another_model_gets_what_covers_its_needs() -> None:
    both = Wanted(("age", "city"), (Newest("click", "item", 20), Newest("buy", "item", 5)))
    assert covers(both, both) and covers(both, WANTED) and not covers(WANTED, both)
    assert not covers(WANTED, Wanted(("age",), (Newest("click", "item", 21),)))
    recent = Recent(10, 60)
    recent.keep("u", WANTED, stored(1))
    assert recent.find(LIVE, Wanted((), ())) and recent.find(LIVE, both) is None


def test_a_read_that_a_write_has_overtaken_is_not_remembered() -> None:
    clock = Clock()
    recent = Recent(10, 60, clock)
    recent.keep("u", WANTED, stored(1), asked_s=0)
    clock.now = 1
    recent.drop("u")
    assert recent.find(LIVE, WANTED) is None
    recent.keep("u", WANTED, stored(1), asked_s=0.5)  # under way as the user was written
    assert recent.find(LIVE, WANTED) is None
    recent.keep("u", WANTED, stored(1, 2), asked_s=1.5)
    assert recent.find(LIVE, WANTED) == stored(1, 2)._replace(missing=CACHED)
    for n in range(100):
        recent.drop(str(n))
    assert len(recent._written_s) == 10
