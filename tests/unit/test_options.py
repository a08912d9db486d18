"""What people write as options is checked in one place, with one form of message."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from model.options import Count, NotNegative, OptionError, Share, check, from_text, read, words


@dataclass(frozen=True)
class Oven:
    heat: Literal["top", "both"] = "both"
    rate: Share = 1.0
    minutes: NotNegative = 0.0
    trays: Count = 1
    shelves: tuple[int, ...] = (1,)
    fan: bool = False

    def __post_init__(self) -> None:
        check(self, "oven")
        if self.fan and self.heat == "top":
            raise OptionError("oven: fan true with heat 'top', allowed: both")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heet": 1}, "file: unknown heet; allowed: heat, rate, minutes, trays, shelves, fan"),
        ({"heat": "grill"}, "file: heat 'grill', allowed: top, both"),
        ({"rate": 1.5}, "file: rate 1.5, allowed: number above 0 up to 1"),
        ({"minutes": -1.0}, "file: minutes -1.0, allowed: number from 0"),
        ({"trays": 2.5}, "file: trays 2.5, allowed: whole number from 1"),
        ({"trays": True}, "file: trays True, allowed: whole number from 1"),
        ({"shelves": [1, "a"]}, "file: shelves.1 'a', allowed: list of: whole number"),
        ({"fan": "yes"}, "file: fan 'yes', allowed: true, false"),
        ({"fan": True, "heat": "top"}, "oven: fan true with heat 'top', allowed: both"),
    ],
)
def test_a_message_says_where_what_was_given_and_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        read(Oven, values, "file")
    assert str(error.value) == message


def test_values_of_the_right_types_are_taken_as_they_are() -> None:
    assert read(Oven, {"rate": 1, "shelves": [2, 3], "fan": True}, "file") == Oven(rate=1, shelves=(2, 3), fan=True)


def test_a_dataclass_made_in_python_is_held_to_the_same_limits() -> None:
    with pytest.raises(OptionError, match="oven: trays 0, allowed: whole number from 1"):
        Oven(trays=0)


def test_a_text_is_read_as_the_option_it_stands_for() -> None:
    assert from_text(tuple[int, ...], "64-32", "here", "mlp") == (64, 32)
    assert from_text(bool, "false", "here", "fan") is False
    with pytest.raises(OptionError, match="here: mlp '64-x', allowed: list of: whole number"):
        from_text(tuple[int, ...], "64-x", "here", "mlp")
    assert words(dict[Literal["a", "b"], Count]) == "{a, b = whole number from 1}"
