"""Enums of strings print as their values, on every Python version."""

from __future__ import annotations

import json

from poundcake.string_enum import StringEnum


class Colour(StringEnum):
    RED = "red"


def test_a_member_is_printed_formatted_and_serialized_as_its_value():
    assert str(Colour.RED) == "red"
    assert f"{Colour.RED}" == "red"
    assert f"{Colour.RED:>5}" == "  red"
    assert "%s" % Colour.RED == "red"  # noqa: UP031 - log lines are formatted like this
    assert json.dumps({"colour": Colour.RED}) == '{"colour": "red"}'
    assert Colour("red") is Colour.RED
