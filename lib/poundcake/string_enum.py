"""An enum whose members are strings: Python 3.11's StrEnum, for older versions."""

from __future__ import annotations

from enum import Enum


class StringEnum(str, Enum):
    """An enum of strings that prints, formats and serializes as its value."""

    def __str__(self) -> str:
        return str(self.value)
