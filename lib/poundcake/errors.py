"""What the pack's own errors have in common."""


class PoundCakeError(Exception):
    """Something that a person can do something about: the message says what, in one line, and
    has no secret in it."""
