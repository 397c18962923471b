"""The forms with which a person filters what a page shows."""

from __future__ import annotations

from typing import Any, Mapping
from urllib.parse import parse_qsl

from poundcake.trail.search import FilterError


def has_empty_parameter(query: str) -> bool:
    """Return True if a query has an empty parameter.

    A form sends all of its fields. Without the empty ones, the address is short enough to share.
    """
    return any(not text for _, text in parse_qsl(query, keep_blank_values=True))


def text_fields(
    fields: Mapping[str, tuple[str, str]], values: Mapping[str, str], errors: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the variables of text fields.

    Args:
        fields: The label and an example of each field, by the name of its filter.
        values: The text in each field.
        errors: What is wrong with the texts that are invalid.
    """
    return [
        {"example": example, **field(name, label, values, errors)}
        for name, (label, example) in fields.items()
    ]


def field(
    name: str, label: str, values: Mapping[str, str], errors: Mapping[str, str]
) -> dict[str, Any]:
    """Return the variables that all kinds of fields have."""
    return {
        "name": name,
        "label": label,
        "value": values[name],
        "error": errors.get(name, ""),
    }


def problem_of(error: FilterError) -> str:
    """Return what is wrong with a filter, without its name, which the field shows."""
    return str(error)[len(f"{error.field}: ") :]
