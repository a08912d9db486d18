"""An experiment that runs: its plan, each variant's model, and who is given which."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from service.models.target import Target
from service.scoring.catalog import Watch
from service.scoring.served import Live
from service.variants.counting import Counting
from service.variants.draw import drawn
from service.variants.plan import Plan, Variant


@dataclass(frozen=True)
class Arm:
    """One variant's model, in a place of its own: its catalogue and counts are taken over there."""

    variant: Variant
    live: Live
    watch: Watch | None  # None: it follows the model that RANKER_BUNDLE leads to
    leave: Callable[[], None] = lambda: None  # ends that


@dataclass(frozen=True)
class Experiment:
    plan: Plan
    arms: dict[str, Arm]
    counting: Counting
    text: str = field(repr=False, default="")  # of its file
    stamps: tuple[Target, ...] = ()  # of its bundles

    @cached_property
    def shares(self) -> list[tuple[str, float]]:
        return [(variant.name, variant.share) for variant in self.plan.variants]

    def arm_of(self, user_id: str) -> Arm:
        """Users of a variant that was caught get control."""
        name = drawn(self.plan.salt, self.shares, user_id)
        return self.arms[self.plan.base if name in self.counting.caught else name]

    def end(self) -> None:
        for arm in self.arms.values():
            arm.leave()
