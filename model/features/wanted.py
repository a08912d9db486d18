"""What a model reads of a user, for whoever fetches it from a store."""

from typing import NamedTuple

from model.features.kinds import USER_ID
from model.features.schema import Schema


class Newest(NamedTuple):
    """The newest `most` behaviours of one action on one type of object."""

    action: str
    object_type: str
    most: int


class Wanted(NamedTuple):
    """Fields of the profile, and kinds of behaviours; kinds of one type of object are cut to `most` together."""

    fields: tuple[str, ...]
    behaviours: tuple[Newest, ...]

    @classmethod
    def of(cls, schema: Schema) -> "Wanted":
        fields = tuple(feature.name for feature in schema.side("user") if feature.name != USER_ID)  # the request's
        items = schema.history
        longest = max([items.length, *(length for _, length in map(schema.view, schema.matches))])
        newest = [Newest(action, items.object_type, longest) for action in items.actions]
        newest += [Newest(action, one.object_type, one.length) for one in schema.groups for action in one.actions]
        return cls(fields, tuple(newest))

    @property
    def longest(self) -> int:
        """The longest history that is read, T."""
        return max((newest.most for newest in self.behaviours), default=0)
