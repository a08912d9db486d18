"""All that is held of one user, whatever a model reads: the commands, and what their replies say."""

from collections.abc import Sequence
from typing import Any

from model.features.behaviour import LATEST_MS, Behaviour
from service.store import format1
from service.store.format import CUT_BEFORE, Pipeline, history_key, kinds_key, profile_key, shown_key, unpack
from service.store.history import Known


class Everything:
    """What the first replies say, and what is to be asked after them."""

    @staticmethod
    def ask(pipeline: Pipeline, user_id: str) -> None:
        """Queues the first commands."""
        for command in ("HKEYS", "HVALS", "PTTL"):
            pipeline.execute_command(command, profile_key(user_id))
        pipeline.execute_command("PTTL", kinds_key(user_id))
        pipeline.execute_command("ZRANGE", kinds_key(user_id), 0, -1)
        pipeline.execute_command("ZRANGE", format1.history_key(user_id), 0, -1)
        pipeline.execute_command("ZRANGE", shown_key(user_id), 0, -1)

    def __init__(self, user_id: str, replies: Sequence[Any]):
        fields, values, *lives_ms, kinds, self._old, self._shown = replies
        self._user_id = user_id
        self._profile = {_text(field): _text(value) for field, value in zip(fields, values, strict=True)}
        self._expires_in_s = max((ms // 1000 for ms in lives_ms if ms >= 0), default=None)
        self._kinds = [kind for kind in map(_text, kinds) if "|" in kind]  # CUT_BEFORE is none, nor what others left

    def ask_more(self, pipeline: Pipeline) -> None:
        """Queues the second commands; none where there is no history."""
        if self._kinds:
            pipeline.execute_command("ZMSCORE", kinds_key(self._user_id), CUT_BEFORE, *self._kinds)
        for kind in self._kinds:
            pipeline.execute_command("ZRANGE", history_key(self._user_id, kind), 0, -1)

    def known(self, replies: Sequence[Any]) -> Known:
        """Of all replies; members that are no behaviours are left out."""
        cut_until, behaviours, shown = {}, set(), []
        if self._kinds:
            for_all, *cuts = (0 if cut is None else int(min(float(cut), LATEST_MS)) for cut in replies[0])
            for kind, cut, members in zip(self._kinds, cuts, replies[1:], strict=True):
                action, object_type = kind.split("|", 1)
                cut_until[action, object_type] = max(cut, for_all)
                for member in members:
                    try:
                        behaviours.add(Behaviour(action, object_type, *unpack(member)))
                    except ValueError:
                        continue
        for member in self._old:
            try:
                behaviours.add(old := format1.unpack(member))
            except ValueError:
                continue
            cut_until.setdefault((old.action, old.object_type), 0)
        for member in self._shown:
            try:
                shown.append(unpack(member))
            except ValueError:
                continue
        ordered = sorted(behaviours, key=lambda one: (one.action, one.object_type, one.timestamp, one.object_id))
        return Known(self._profile, ordered, cut_until, self._expires_in_s, shown)


def _text(value: bytes) -> str:
    """As a read has it, whatever another program has written."""
    return value.decode(errors="replace")
