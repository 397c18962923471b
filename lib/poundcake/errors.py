"""The base class of every error that this pack raises on purpose."""

from __future__ import annotations


class PoundCakeError(Exception):
    """An error that a person can act on.

    The message is one line, says what happened and what to do next, and contains no secrets.
    Actions return it as their result, and the endpoint logs it.
    """
