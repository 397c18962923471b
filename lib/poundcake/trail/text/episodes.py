"""Format the view why: what was done about an alert, episode by episode."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any, Mapping, Sequence

from poundcake.trail import commands
from poundcake.trail.outbox import MAX_EVIDENCE
from poundcake.trail.text.layout import (
    DEFAULT_WIDTH,
    MAX_WIDTH,
    add_remaining,
    counted,
    display_width,
    footer_lines,
    format_age,
    format_elapsed,
    format_sentence,
    format_time,
    format_total,
    join_lines,
    label_text,
    next_lines,
    sanitize,
    unbreakable,
    wrap,
    wrap_all,
)
from poundcake.trail.text.near_misses import near_miss_lines
from poundcake.trail.text.remarks import incident_remark_lines, pause_lines
from poundcake.trail.text.results import evidence_lines

_RECENT = "st2 run poundcake.executions_recent format=text"
_DURATION = re.compile(r"\b(\d{1,6}(?:\.\d)?) (s|min|h)\b")
_MAX_LABEL_LINES = 3
_INDENT = "  "


def why(view: dict[str, Any], now: datetime | None = None, width: int = DEFAULT_WIDTH) -> str:
    """Format what was done about an alert, episode by episode.

    Args:
        view: The view, as JSON.
        now: The time to which ages are relative. The default is the current time.
        width: The number of columns of the terminal.
    """
    page = _Page(sanitize(view), now or datetime.now(timezone.utc), width)
    return join_lines(page.lines(), MAX_WIDTH)  # they are already wrapped


class _Page:
    """The lines of the view."""

    def __init__(self, view: dict[str, Any], now: datetime, width: int):
        self._view = view
        self._now = now
        self._width = width

    def lines(self) -> list[str]:
        """Return the lines of the view. They fit into the width."""
        view = self._view
        lines = self._wrap_all(pause_lines(view, self._now))
        waiting = view.get("waiting", [])
        for request in waiting:
            lines += [*self._waiting_lines(request), ""]
        for episode in view["episodes"]:
            lines += [*self._episode_lines(episode), ""]
        ending = [format_total(view, "count", "episode")]
        if not view["episodes"]:
            other = "other " if waiting else ""
            ending = [f"no {other}matching alert is recorded"]
            if view.get("next"):
                ending = ["none of the newest alerts matches"]
            ending += near_miss_lines(view)
        ending += footer_lines(view)
        if view.get("endpoint"):
            ending.append(f"requests that wait to be recorded are not shown: {view['endpoint']}")
        if not (view["episodes"] or waiting or view.get("next")):
            ending += next_lines(commands.HEALTH if view.get("endpoint") else _RECENT)
        return lines + self._wrap_all(ending)

    def _episode_lines(self, episode: Mapping[str, Any]) -> list[str]:
        lines = [_INDENT + self._sentence(episode["headline"])]
        for approval in episode.get("approvals", ()):
            lines += [f"{_INDENT}seen: {line}" for line in approval["evidence"][:MAX_EVIDENCE]]
        for execution in episode["stackstorm_executions"][-1:]:
            lines += [_INDENT + line for line in evidence_lines(execution)]
        lines += self._description_lines(episode)
        ids = [f"{_INDENT}request {episode['alerts'][-1]['request_id']}"]
        if episode["episode"]:
            ids.insert(0, f"{_INDENT}episode {episode['episode']}")
        return [
            *self._title_lines(episode, self._duration(episode)),
            *self._wrap_all(lines),
            *self._timeline_lines(episode),
            *self._wrap_all([_INDENT + remark for remark in remarks(episode)]),
            *self._wrap_all(ids),
            *self._next_lines(episode),
        ]

    def _waiting_lines(self, request: Mapping[str, Any]) -> list[str]:
        received = f"received {format_age(request['received_at'], self._now)}"
        lines = [
            _INDENT + self._sentence(request["headline"]),
            *self._description_lines(request),
            f"{_INDENT}request {request['request_id']}",
        ]
        return [
            *self._title_lines(request, received),
            *self._wrap_all(lines),
            *self._next_lines(request),
        ]

    def _title_lines(self, episode: Mapping[str, Any], duration: str) -> list[str]:
        """Return the verdict, the alert, and how long it fires or fired."""
        name = episode["alert_name"] or "(an alert without a name)"
        facts = ", ".join(filter(None, (episode["severity"], unbreakable(duration))))
        parts = filter(None, (episode["title"], name, episode["instance"], facts))
        # A continuation has a deeper indent than any line of its own, so that no text of an alert
        # can imitate such a line.
        return wrap("  ".join(parts), self._width, _INDENT * 2)

    def _duration(self, episode: Mapping[str, Any]) -> str:
        if episode["state"] == "firing":
            return f"firing for {format_elapsed(episode['starts_at'], self._now)}"
        if not episode["state"]:
            return f"received {format_age(episode['last_seen_at'], self._now)}"
        ended_at = episode["ends_at"]
        ago = f" {format_age(ended_at, self._now)}" if ended_at else ""
        return f"{episode['state']}{ago}"

    def _description_lines(self, episode: Mapping[str, Any]) -> list[str]:
        """Return the summary, the runbook and the labels of an alert."""
        lines = [f"{_INDENT}alert: {episode['summary']}"] if episode["summary"] else []
        if episode["runbook_url"]:
            lines.append(f"{_INDENT}runbook: {episode['runbook_url']}")
        labels = dict(episode["labels"])
        count = len(labels) + episode.get("labels_left_out", 0)
        while len(wrap(self._label_line(labels), self._width)) > _MAX_LABEL_LINES:
            if len(labels) == 1:
                break
            labels.popitem()
        if labels:
            lines.append(self._label_line(labels))
        if count > len(labels):
            lines.append(_INDENT + counted(count - len(labels), "more label"))
        return lines

    def _label_line(self, labels: Mapping[str, str]) -> str:
        return f"{_INDENT}labels: {label_text(labels)}"

    def _timeline_lines(self, episode: Mapping[str, Any]) -> list[str]:
        lines: list[str] = []
        for event in episode["timeline"]:
            start = f"{_INDENT}{format_time(event['at'], self._now)}  "
            text = start + self._sentence(_remove_headline(event["text"], episode["headline"]))
            lines += wrap(text, self._width, " " * min(len(start), self._width // 4))
        if episode.get("alerts_left_out"):
            more = counted(episode["alerts_left_out"], "more notification")
            last = format_time(episode["last_seen_at"], self._now)
            lines.append(f"{_INDENT}{more}, the last one at {last}")
        return lines

    def _next_lines(self, episode: Mapping[str, Any]) -> list[str]:
        """Return what happens next by itself or by a person, and the command for it."""
        lines = [f"{_INDENT}next: {self._sentence(episode['next_step'], with_remaining=True)}"]
        command = unbreakable(episode["next_command"])
        if command:
            fits = display_width(command) <= self._width - len(_INDENT * 2)
            lines.append(_INDENT + (f"run: {command}" if fits else unbreakable(f"run: {command}")))
        return self._wrap_all(lines)

    def _wrap_all(self, lines: Sequence[str]) -> list[str]:
        return wrap_all(lines, self._width)

    def _sentence(self, text: str, with_remaining: bool = False) -> str:
        """Return a sentence with short times, and with commands and durations that stay whole.

        Args:
            text: The sentence.
            with_remaining: Whether to say how long it is until a time in the future.
        """
        text = add_remaining(text, self._now) if with_remaining else text
        sentence = format_sentence(text, self._now)
        return _DURATION.sub(lambda match: unbreakable(match[0]), sentence)


def _remove_headline(text: str, headline: str) -> str:
    """Return the text of an event without the headline, which is shown above."""
    if headline not in text:
        return text
    before, _, after = text.partition(headline)
    return before.rstrip(" :;") + after or text


def remarks(episode: Mapping[str, Any]) -> list[str]:
    """Return the remarks on the incident that neither the headline nor the timeline contains."""
    verdict = episode["verdict"]
    remarks = incident_remark_lines({**episode, "notes": ""})
    return [remark for remark in remarks if not remark.startswith(verdict)]
