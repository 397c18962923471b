"""docs/CONFIGURATION.md matches config.schema.yaml."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    """Return scripts/configuration_page.py as a module."""
    path = ROOT / "scripts" / "configuration_page.py"
    spec = importlib.util.spec_from_file_location("configuration_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(script):
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.update_page(page), "run: .venv/bin/python scripts/configuration_page.py"


def test_only_the_text_below_the_marker_is_replaced(script):
    page = f"# By hand\n{script.MARKER}| `removed_key` |\n"
    assert (
        script.update_page(page)
        == f"# By hand\n{script.MARKER}\n{script.format_table(script.SCHEMA)}"
    )


def test_a_page_without_the_marker_is_not_overwritten(script):
    with pytest.raises(ValueError, match="the marker is missing"):
        script.update_page("# By hand\n")


def test_each_key_has_a_row(script, tmp_path):
    schema = tmp_path / "schema.yaml"
    schema.write_text(
        "port: {type: integer, default: 8000, description: 'A | B,\n  and more.'}\n"
        "dry_run: {type: boolean, default: true, description: D.}\n"
        "url: {type: string, secret: true, default: '', description: U.}\n"
        "tokens: {type: array, items: {type: string, secret: true}, description: T.}\n"
    )
    assert script.format_table(schema).splitlines()[2:] == [
        "| `port` | integer | `8000` | A \\| B, and more. |",
        "| `dry_run` | boolean | `true` | D. |",
        "| `url` | string, secret | none | U. |",
        "| `tokens` | list of strings, secret | none | T. |",
    ]
