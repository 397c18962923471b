"""The base class of the errors that this pack raises deliberately."""

from __future__ import annotations


class PoundCakeError(Exception):
    """An error that people can act on.

    Its message is one line without secrets that states what happened and what to do next. Actions
    return the message as their result, and the endpoint logs it.
    """
