"""Render the pages with Jinja2."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping

import jinja2
from markupsafe import Markup, escape

from poundcake.endpoint.board import charts
from poundcake.endpoint.board.page_cache import Page
from poundcake.endpoint.board.paths import STATIC_PATH, episode_path, request_path
from poundcake.timestamps import format_duration, format_timestamp, parse_timestamp
from poundcake.trail.clock import format_deadline
from poundcake.trail.text import layout

_FOLDER = Path(__file__).parent
# These stand for what differs each time a page is rendered, although nothing on it has changed.
_RENDERED_AT = "@rendered-at@"
_RENDERED_TIME = "@rendered-time@"
_ENTITY_TAG = "@entity-tag@"
# The ages on a page, which the script in the browser keeps up to date. See _time_element().
_AGE = re.compile(r'( data-relative="[a-z]+">)[^<]*')


def render(name: str, now: datetime, content: Mapping[str, Any]) -> Page:
    """Render a page.

    Args:
        name: The name of the template.
        now: The time to which the ages on the page are relative.
        content: The variables of the template. All text in it may come from an alert, so it is made
            safe as in the text output, and escaped.
    """
    template = _environment().get_template(name)
    text = template.render(
        **{"status_line": None, **layout.sanitize(dict(content))},
        now=now,
        rendered_at=_RENDERED_AT,
        rendered_time=_RENDERED_TIME,
        entity_tag=_ENTITY_TAG,
    )
    digest = hashlib.sha256(_AGE.sub(r"\1", text).encode()).hexdigest()
    entity_tag = f'W/"{digest[:32]}"'
    for placeholder, value in {
        _RENDERED_AT: format_timestamp(now),
        _RENDERED_TIME: f"{now:%Y-%m-%d %H:%M:%SZ}",
        _ENTITY_TAG: str(escape(entity_tag)),
    }.items():
        text = text.replace(placeholder, value)
    return Page(text.encode(), entity_tag)


def load_templates() -> None:
    """Compile all templates, which takes longer than to render one."""
    environment = _environment()
    for name in environment.list_templates():
        environment.get_template(name)


@lru_cache(maxsize=None)
def _static_files() -> dict[str, bytes]:
    """Return the content of each file that the pages load, by its name."""
    return {path.name: path.read_bytes() for path in (_FOLDER / "static").iterdir()}


def static_file(name: str) -> bytes | None:
    """Return the content of a file that the pages load, or None if there is no such file."""
    return _static_files().get(name)


@lru_cache(maxsize=None)
def static_url(name: str) -> str:
    """Return the URL of a file that the pages load. It changes with the file's content.

    Args:
        name: The name of a file that exists. The templates choose it, so the cache stays small.
    """
    digest = hashlib.sha256(_static_files()[name]).hexdigest()
    return f"{STATIC_PATH}{name}?v={digest[:12]}"


@lru_cache(maxsize=None)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,  # all templates stay
    )
    environment.filters.update(
        ago=_ago,
        elapsed=_elapsed,
        clock=_clock,
        deadline=_deadline,
        remaining=_remaining,
        sentence=_sentence,
        counted=layout.counted,
        duration=_duration,
    )
    environment.globals.update(
        static_url=static_url,
        episode_path=episode_path,
        request_path=request_path,
        bar_chart=charts.bar_chart,
        line_chart=charts.line_chart,
        legend=charts.legend,
        data_table=charts.data_table,
    )
    return environment


def _ago(moment: str | None, now: datetime) -> Markup:
    """Return how long ago a time was, with the exact time on hover."""
    return _time_element(moment, layout.format_age(moment, now), "ago") if moment else Markup()


def _elapsed(moment: str | None, now: datetime) -> Markup:
    """Return how long it is since a time, with the exact time on hover."""
    return (
        _time_element(moment, layout.format_elapsed(moment, now), "elapsed") if moment else Markup()
    )


def _clock(moment: str | None, now: datetime) -> Markup:
    """Return a time to the second, with its date unless it is today."""
    return _time_element(moment, layout.format_time(moment, now), "") if moment else Markup()


def _deadline(moment: str | None, now: datetime) -> Markup:
    """Return a deadline like _clock(), but rounded up to a whole second."""
    parsed_moment = parse_timestamp(moment)
    return _clock(format_deadline(parsed_moment), now) if parsed_moment else Markup()


def _duration(seconds: float | None) -> str:
    """Return a duration as people read it, or a dash if there is none."""
    return "-" if seconds is None else format_duration(seconds)


def _remaining(moment: str | None, now: datetime) -> Markup:
    """Return how long it is until a time, with the exact time on hover; nothing once it is past."""
    until = parse_timestamp(moment)
    if until is None or moment is None or until <= now:
        return Markup()
    return _time_element(moment, layout.format_elapsed(format_timestamp(now), until), "")


def _time_element(moment: str, text: str, kind: str) -> Markup:
    """Return a <time> element. The script keeps an element with a kind up to date."""
    try:
        parsed_moment = parse_timestamp(moment)
    except ValueError:
        parsed_moment = None
    if parsed_moment is None:
        return escape(moment)
    exact = f"{parsed_moment:%Y-%m-%d %H:%M:%SZ}"
    data = Markup(' data-relative="{}"').format(kind) if kind else ""
    return Markup('<time datetime="{}" title="{}"{}>{}</time>').format(
        format_timestamp(parsed_moment), exact, data, text
    )


def _sentence(text: str, now: datetime) -> Markup:
    """Return a sentence with its times to the second and its commands marked as code."""
    parts = layout.TIME.sub(lambda match: layout.format_time(match[0], now), text).split("`")
    if len(parts) % 2 == 0:  # a lone backtick
        return escape("`".join(parts))
    pieces = [
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    ]
    return Markup().join(pieces)
