"""The shadows' process: follows experiments.toml and the journal, at a priority that leaves every core to the workers.

It ends when its standard input does. What it falls behind by more than LATE_S is passed over, and counted: a shadow
sees what is left of the machine, and no request waits for it.
"""

import fcntl
import logging
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from model.bundle.errors import BundleError
from model.command import words
from model.features.ids import BadValue
from model.servicelog.records import Impression, Shadowed
from service.journal.file import JournalFile
from service.journal.framing import blocks
from service.journal.lines import line, record
from service.journal.tail import Tail
from service.models import apart
from service.settings import Settings, load_settings
from service.shadowing.shadow import Shadow
from service.telemetry import logs, shadows
from service.variants.draw import uniform
from service.variants.plan import Plan, PlanError
from service.variants.reading import read

log = logging.getLogger("ranker")

LOOK_S = 0.5
LATE_S = 60.0
LOCK = ".shadows.lock"  # a name that no drain looks at
WORKER = "shadow"  # in the first line of its journal files


Done = tuple[str, str, str, int]


def of(request: Impression | Shadowed) -> tuple[str, str, int]:
    return request.request_id, request.user_id, request.read_us


def done_already(journal: Path) -> frozenset[Done]:
    """Shadows and requests that were scored lately: one that takes a dead one's place must not score them again."""
    records = (record(told) for told in Tail(journal, LATE_S).read() if told.get("kind") == "shadowed")
    return frozenset((one.shadow, *of(one)) for one in records if isinstance(one, Shadowed))


class Shadows:
    """`folder`: where the workers' counts are, and what is told to whoever scrapes."""

    def __init__(self, settings: Settings, folder: Path):
        assert settings.experiments is not None and settings.journal is not None
        self._path, self._journal, self._settings = settings.experiments, settings.journal, settings
        self._folder = folder
        self._plan: Plan | None = None
        self._text: str | None = None
        self._shadows: dict[str, Shadow] = {}
        self._tail: Tail | None = None
        self._since_us = 0  # what was shown before is none of its requests
        self._file: JournalFile | None = None
        self._said: set[str] = set()
        self._done: frozenset[Done] = frozenset()  # by a process before this one
        self._held: IO[str] | None = None

    def run(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_S):
            try:
                self.look()
            except OSError as error:
                self._say(words(error))
        self.close()

    def close(self) -> None:
        """Its journal file is whole, and another process may take its place."""
        self._close()
        if self._held is not None:
            self._held.close()
            self._held = None

    def look(self) -> None:
        """Once: what changed, what was shown since, what came of it. Raises OSError."""
        try:
            self._follow()
        except (BundleError, PlanError) as error:  # the file before goes on, as in the workers
            self._say(str(error))
        if not self._shadows:
            self._tail = None
            return
        if self._tail is None:
            if not self._alone():
                return
            self._tail, self._since_us = Tail(self._journal, LATE_S), int((time.time() - LATE_S) * 1e6)
            self._done = done_already(self._journal)
        lines: list[bytes] = []
        for told in self._tail.read():
            if told.get("kind") == "impression":
                request = record(told)
                assert isinstance(request, Impression)
                lines += self._scored(request)
                if len(lines) >= 1000:
                    self._write(lines)
                    lines = []
        self._write(lines)
        shadows.write_file(self._folder, [shadow.told() for shadow in self._shadows.values()])

    def _alone(self) -> bool:
        """Whether nobody else's process scores what is in this journal: a predecessor's does while it hands over."""
        if self._held is None:
            file = (self._journal / LOCK).open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._held = file  # until this process ends, however it does
        return True

    def _follow(self) -> None:
        plan, text = read(self._path)
        if text != self._text:
            wanted = {} if plan is None else {shadow.name: shadow for shadow in plan.shadows}
            made = {}
            for name, asked in wanted.items():
                before = self._shadows.get(name)
                if before is not None and before.folder == asked.bundle:
                    before.share = asked.share
                    made[name] = before
                else:
                    made[name] = Shadow(name, asked.share, asked.bundle, self._settings.precision)
            self._shadows, self._plan, self._text = made, plan, text
            if made:
                log.info("shadows: %s", ", ".join(f"{shadow.name} {shadow.share:.0%}" for shadow in made.values()))
            shadows.write_file(self._folder, [])
            self._said.clear()
        for shadow in self._shadows.values():
            shadow.refresh()

    def _scored(self, request: Impression) -> list[bytes]:
        assert self._plan is not None
        lines: list[bytes] = []
        if request.replay or not request.items or request.read_us < self._since_us or not self._plan.runs(request.now):
            return lines
        late = time.time() - request.read_us / 1e6 > LATE_S
        for shadow in self._shadows.values():
            if uniform(self._plan.salt, f"shadow {shadow.name}", request.user_id) > shadow.share:
                continue
            try:
                if self._done and (shadow.name, *of(request)) in self._done:
                    continue
                if late:
                    raise BadValue(f"it is more than {LATE_S:.0f} s behind the requests: too few cores are left to it")
                scored = shadow.score(request)
            except Exception as error:  # BadValue, or what nobody foresaw: one request must not end all shadows
                shadow.passed_over += 1
                self._say(f"shadow {shadow.name} passes requests over: {error}")
            else:
                lines.append(line(scored, scored.user_id))
        return lines

    def _write(self, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        settings = self._settings
        if self._file is not None and (
            self._file.broken
            or self._file.size >= settings.journal_rotate_mb * 1e6
            or time.monotonic() - self._file.begun_s >= settings.journal_rotate_s
        ):
            self._close()
        if self._file is None:
            self._file = JournalFile(self._journal, worker=WORKER)
        for block in blocks(lines):
            self._file.append(block)

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _say(self, problem: str) -> None:
        """Once, until the file changes."""
        if problem not in self._said and len(self._said) < 100:
            self._said.add(problem)
            log.error("shadows: %s", problem)


def main(arguments: Sequence[str]) -> None:
    """`arguments`: the folder of the workers' counts."""
    apart.yield_cores(idle=True)
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    ended = threading.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    Shadows(settings, Path(arguments[0])).run(ended)
