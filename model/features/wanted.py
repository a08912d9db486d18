"""What a model reads of a user, for whoever fetches it from a store."""

from typing import NamedTuple

from model.features.kinds import USER_ID
from model.features.schema import Schema


class Newest(NamedTuple):
    """The newest `most` behaviours of one action on one type of object."""

    action: str
    object_type: str
    most: int


class View(NamedTuple):
    """Some actions on one type of object, of which the newest `most` are looked at by themselves."""

    object_type: str
    actions: tuple[str, ...]
    most: int


class Wanted(NamedTuple):
    """Fields of the profile, and kinds of behaviours; kinds of one type of object are cut to `most` together.

    `apart`: what else is cut by itself, of kinds that are among these.
    """

    fields: tuple[str, ...]
    behaviours: tuple[Newest, ...]
    apart: tuple[View, ...] = ()
    impressions: int = 0  # up to how many of today are counted; 0: none

    @classmethod
    def of(cls, schema: Schema) -> "Wanted":
        fields = tuple(feature.name for feature in schema.side("user") if feature.name != USER_ID)  # the request's
        items = schema.history
        views = schema.views
        longest = max([items.length, *(length for _, length in views)])
        newest = [Newest(action, items.object_type, longest) for action in items.actions]
        newest += [Newest(action, one.object_type, one.length) for one in schema.groups for action in one.actions]
        own = (View(items.object_type, actions, most) for actions, most in views if set(actions) != set(items.actions))
        return cls(fields, tuple(newest), tuple(own), schema.impressions_counted)

    @property
    def longest(self) -> int:
        """The longest history that is read, T."""
        return max((newest.most for newest in self.behaviours), default=0)
