"""What was told of one user and what came back: the judge's ledger, with profiles and with being forgotten.

One caller at a time writes of a user. Where the answer to a PUT or a DELETE never came it is not known when, or if,
it is done: nobody writes of that user any more, and either outcome is right.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.judge.ledger import Ledger, Told

Profile = dict[str, str]


@dataclass
class Account(Ledger):
    user_id: str = ""
    forgotten: set[Told] = field(default_factory=set)  # acknowledged, then forgotten by a DELETE that was too
    unanswered: set[Told] = field(default_factory=set)  # of a call without a 200: may be written at any later time
    passed: set[Told] = field(default_factory=set)  # of these, those that a DELETE came after
    profiles: list[Profile] = field(default_factory=lambda: [{}])  # that the store may hold
    replaced: list[Profile] = field(default_factory=list)  # that were acknowledged, and are no more
    confirmed: list[Profile] = field(default_factory=list)  # acknowledged since the last DELETE: the log must hold them
    is_forgotten: bool = False  # by a DELETE that was acknowledged, of which the log must tell
    unlogged: set[Told] = field(default_factory=set)  # acknowledged, and taken from the journal by what befell it
    deleting: bool = False  # a DELETE was sent that was not acknowledged
    left: bool = False  # nobody writes of this user any more

    def sends(self, events: Iterable[Told]) -> None:
        self.sent |= set(events)

    def acknowledges(self, events: Iterable[Told]) -> None:
        self.acknowledged |= set(events)

    def doubts(self, events: Iterable[Told]) -> None:
        """They were sent by a call that was not answered by 200."""
        self.unanswered |= set(events)

    def puts(self, profile: Profile) -> None:
        """A PUT is sent."""
        self.profiles.append(profile)
        self.left = True  # until it is acknowledged

    def has_put(self, profile: Profile) -> None:
        """It is acknowledged."""
        self.replaced += [one for one in self.profiles if one != profile]
        self.profiles = [profile]
        self.confirmed.append(profile)
        self.left = False

    def deletes(self) -> None:
        """A DELETE is sent."""
        self.profiles.append({})
        self.deleting = self.left = True

    def deleted(self) -> None:
        """It is acknowledged."""
        self.forgotten |= self.acknowledged - self.unanswered
        self.passed |= self.unanswered
        self.sent, self.acknowledged, self.unanswered = set(), set(), set()
        self.replaced += self.profiles
        self.profiles, self.confirmed = [{}], []
        self.is_forgotten = True
        self.deleting = self.left = False

    def log_is_gone(self) -> None:
        """Nothing that was written until now need be in the log."""
        self.unlogged |= self.acknowledged
        self.confirmed, self.is_forgotten = [], False

    def known(self, user_id: str, profile: Profile, clicks: set[tuple[str, int]]) -> str | None:
        """What is wrong with an answer that tells all that the store holds; None where it may be so."""
        if user_id != self.user_id:
            return f"{self.user_id}: is called {user_id!r}: CROSSED"
        if profile not in self.profiles:
            return f"{user_id}: the profile is {profile}, allowed are {self.profiles}"
        if not self.deleting and (missing := self.behaviours_of(self.acknowledged) - clicks):
            return f"{user_id}: {len(missing)} acknowledged clicks are not there, as {min(missing)}"
        if strange := clicks - self.behaviours_of(self.sent | self.passed):
            return f"{user_id}: {len(strange)} clicks nobody told, or of a time that is forgotten, as {min(strange)}"
        return None

    def behaviours_of(self, events: Iterable[Told]) -> set[tuple[str, int]]:
        """Clicks among events, as the store has them."""
        return {(told.item_id, told.timestamp) for told in events if told.event == "click"}
