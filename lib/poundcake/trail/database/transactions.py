"""Run transactions on the tracking database, and retry them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Callable, Iterator, TypeVar
from urllib.parse import quote, quote_plus

from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from poundcake.trail.database import holds
from poundcake.trail.database.sqlite import READ_ONLY
from poundcake.trail.errors import DatabaseError

# Maximum attempts at a write that collides with another write.
ATTEMPTS = 5
# MariaDB's error codes for a deadlock, a lock wait timeout, and a missing savepoint: a deadlock
# rolls the transaction back together with its savepoints.
_COLLISIONS = ((1213,), (1205,), (1305,))

_T = TypeVar("_T")


def kind(engine: Engine) -> str:
    """Return the name of the database system to show to people: ``SQLite`` or ``MariaDB``."""
    return "SQLite" if engine.dialect.name == "sqlite" else "MariaDB"


@contextmanager
def transaction(engine: Engine, check: bool = True) -> Iterator[Connection]:
    """Open a transaction that commits at the end of the block.

    Args:
        engine: The tracking database, with its tables.
        check: Whether to refuse a database that must not be used. Only copy_trail does not check.

    Raises:
        IntegrityError: A unique key rejected a row. The caller must handle this.
        DatabaseError: Any other error of the database, or the trail was moved to another one.
    """
    try:
        with engine.begin() as connection:
            if check:
                holds.check_writable(connection)
            yield connection
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        raise DatabaseError(describe(error, engine)) from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a connection that reads one snapshot and blocks no writer. Raises DatabaseError."""
    try:
        with engine.connect() as plain:
            connection = plain.execution_options(**{READ_ONLY: True})
            with connection.begin():
                yield connection
    except SQLAlchemyError as error:
        raise DatabaseError(describe(error, engine)) from error


def retry_while_unavailable(work: Callable[[], _T], seconds: float) -> _T:
    """Call work(), retrying while the database is unavailable, for at most `seconds`."""
    deadline = time.monotonic() + seconds
    delay = 0.2
    while True:
        try:
            return work()
        except DatabaseError:
            if time.monotonic() + delay > deadline:
                raise
        time.sleep(delay)
        delay = min(delay * 2, 5)


def retry_deadlocks(work: Callable[[], _T]) -> _T:
    """Call work(), which runs one transaction, and retry it if it collides with another."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return work()
        except DatabaseError as error:
            if not _is_collision(error):
                raise
        time.sleep(0.05 * 2**attempt)
    return work()


def describe(error: Exception, engine: Engine) -> str:
    """Describe an error in one line, without the statement, its parameters or the password."""
    url = public_url(engine.url)
    if isinstance(error, DBAPIError) and error.orig is not None:
        message = " ".join(str(part) for part in error.orig.args) or type(error.orig).__name__
    else:
        message = str(error).splitlines()[0]
    for secret in _secrets(engine.url):
        message = message.replace(secret, "***")
    return f"{url}: {message}"


def public_url(url: URL) -> str:
    """Return a URL to show to people. No part of it contains the password."""
    if url.username:
        url = url.set(username=url.username.partition(":")[0])
    return url.set(query={}).render_as_string(hide_password=True)


def _secrets(url: URL) -> list[str]:
    """Return the passwords of a URL, plain and percent-encoded, longest first."""
    passwords = {str(url.password or "")}
    # In `user%3Apassword@host`, SQLAlchemy parses user and password together as the user name.
    passwords.add((url.username or "").partition(":")[2])
    for name, value in url.query.items():
        if "pass" in name.lower():
            passwords.update([value] if isinstance(value, str) else value)
    encoded_passwords = {
        encode(password)
        for password in passwords
        for encode in (str, quote, quote_plus, _quote_all)
    }
    return sorted(encoded_passwords - {""}, key=len, reverse=True)


def _quote_all(text: str) -> str:
    return quote(text, safe="")


def _is_collision(error: DatabaseError) -> bool:
    cause = error.__cause__
    return (
        isinstance(cause, DBAPIError)
        and cause.orig is not None
        and cause.orig.args[:1] in _COLLISIONS
    )
