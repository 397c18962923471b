"""Secrets are read from the files and variables that the configuration references."""

from __future__ import annotations

import builtins
import os
import pwd

import pytest

from poundcake.secret_references import is_reference, resolve


def error_of(reference):
    with pytest.raises(ValueError) as caught:
        resolve(reference)
    return str(caught.value)


def test_a_secret_is_read_from_a_file_without_the_newline(tmp_path):
    (tmp_path / "secret").write_text(" hush \n")
    assert resolve(f"file:{tmp_path}/secret") == "hush"


def test_a_secret_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("POUNDCAKE_SECRET", "hush ")
    assert resolve("env:POUNDCAKE_SECRET") == "hush"


def test_a_literal_secret_is_not_changed():
    assert resolve("hush") == "hush"
    assert not is_reference("hush")
    assert is_reference("file:/x") and is_reference("env:X")


@pytest.mark.parametrize(
    "reference, error",
    [
        ("env:POUNDCAKE_NO_SUCH", "the environment variable POUNDCAKE_NO_SUCH is not set"),
        ("env:", "must be env:NAME, but nothing follows the colon"),
        ("file:/no/such/file", "cannot read /no/such/file: no such file or directory"),
        ("file:", "must be file:/path, but nothing follows the colon"),
        ("file:/", "cannot read /: is a directory"),
        ("file:/dev/null", "/dev/null is empty"),
        ("file:/a\0b", "cannot read /a\0b: no file can have this name"),
    ],
)
def test_the_error_names_the_unreadable_file_or_variable(reference, error):
    assert error_of(reference) == error


def test_a_file_that_is_not_utf8_is_an_error(tmp_path):
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    assert error_of(f"file:{tmp_path}/secret").endswith("/secret: not UTF-8")


def test_the_error_for_another_users_file_suggests_a_command(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)  # the tests may run as root
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert error_of("file:/the/token") == (
        f"cannot read /the/token: permission denied (run: chown {user}: /the/token)"
    )


@pytest.mark.parametrize(
    "value", ["FILE:/x", "File:/x", "file: /x", "file:\t/x", "file :/x", "file:/x ", "file: "]
)
def test_a_misspelt_file_reference_is_refused_with_the_correct_form(value):
    assert error_of(value) == "must be file:/path, in lower case and without a space"


@pytest.mark.parametrize("value", ["ENV:X", "Env:X", "env: X", "env :X", "ENV:"])
def test_a_misspelt_variable_reference_is_refused_with_the_correct_form(value):
    assert error_of(value) == "must be env:NAME, in lower case and without a space"


@pytest.mark.parametrize("value", ["file", "environment", "profile:/x", "my file:/x", "envy:x"])
def test_a_secret_that_only_resembles_a_reference_is_literal(value):
    assert resolve(value) == value
