"""The conditions of work that StackStorm has not finished."""

from __future__ import annotations

from sqlalchemy import or_
from sqlalchemy.sql import ColumnElement

from poundcake.trail.outcomes import Explanation
from poundcake.trail.schema import alerts


def unexplained() -> ColumnElement[bool]:
    """Return the condition of alerts of which it is not known yet what became of them."""
    return or_(alerts.c.explanation.is_(None), alerts.c.explanation == Explanation.RETRY)
