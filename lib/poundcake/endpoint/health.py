"""Report the health of the endpoint and of the components that it depends on."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import poundcake
from poundcake.endpoint.journal import Journal, JournalCounts, JournalError
from poundcake.string_enum import StringEnum
from poundcake.timestamps import format_timestamp
from poundcake.trail import database

if TYPE_CHECKING:
    from poundcake.endpoint.installation import Installation
    from poundcake.endpoint.journal_keeper import JournalKeeper
    from poundcake.endpoint.pipeline import Pipeline

_MAX_STUCK_LISTED = 20
LATE_SECONDS = 120.0
"""Seconds after which a waiting request degrades the health of the endpoint."""


class State(StringEnum):
    """The state of a component."""

    UNKNOWN = "unknown"
    """The endpoint has not used it yet."""
    OK = "ok"
    DOWN = "down"
    FULL = "full"
    """`backlog_limit` is reached. Only the journal can have this state."""


class Component:
    """A component that the endpoint depends on.

    Attributes:
        name: Its name in health reports and logs.
        effect: What happens while it is down, for the log.
        state: Whether it works.
        since: When it entered this state.
        detail: Why it does not work or why its state is unknown, or '' if it works.
    """

    def __init__(self, log: logging.Logger, name: str, effect: str):
        self._log = log
        self.name = name
        self.effect = effect
        self.state = State.UNKNOWN
        self.detail = "not used since the endpoint started"
        self.since = datetime.now(timezone.utc)

    def mark_ok(self) -> None:
        """Note that the component works."""
        self._change_state(State.OK, "")

    def mark_down(self, detail: str) -> None:
        """Note that the component does not work, and why."""
        self._change_state(State.DOWN, detail)

    def _change_state(self, state: State, detail: str) -> None:
        if state != self.state:
            now = datetime.now(timezone.utc)
            if state == State.DOWN:
                self._log.warning("%s: down: %s (%s)", self.name, detail, self.effect)
            elif self.state == State.DOWN:
                seconds = (now - self.since).total_seconds()
                self._log.info("%s: works again after %.0f s", self.name, seconds)
            self.since = now
        self.state, self.detail = state, detail


class Components:
    """The components that the endpoint depends on, besides the journal."""

    def __init__(self, log: logging.Logger):
        effect = "webhooks are still accepted and wait in the journal; retrying"
        self.broker = Component(log, "broker", f"check RabbitMQ; {effect}")
        self.database = Component(log, "database", f"check the database; {effect}")
        self.stackstorm = Component(log, "stackstorm", effect)
        # The Alertmanagers that sync queries. No request passes through them.
        self.monitoring = Component(
            log, "monitoring", "webhooks are still processed; the next sync tries again"
        )

    def first_down(self) -> Component | None:
        """Return the first component that is down, or None if none is."""
        components = (self.database, self.broker, self.stackstorm)
        return next((component for component in components if component.state == State.DOWN), None)


@dataclass
class ComponentReport:
    """The report on one component."""

    state: State
    since: str
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object, without the attributes that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass
class DownstreamReport(ComponentReport):
    """The report on the broker, the database or StackStorm.

    Attributes:
        waiting: The number of requests that are waiting for the component.
        pending: For the database, a sentence about what an operator has to migrate or copy.
        clock_offset_seconds: For the database, how far this machine's clock is ahead of its clock.
        stuck: For StackStorm, the requests that cannot be recorded.
    """

    waiting: int = 0
    pending: str | None = None
    clock_offset_seconds: float | None = None
    stuck: list[str] | None = None


@dataclass
class JournalReport(ComponentReport):
    """The report on the journal.

    The numbers of requests and seconds are None while the journal cannot be read. The bytes are
    None if there is no state_dir.

    Attributes:
        waiting: The number of requests waiting to be recorded, excluding stuck ones.
        backlog_limit: The limit of `waiting`, from the configuration.
        oldest_seconds: How long the oldest of the waiting requests has waited.
        accepted, announced, recorded, done: The number of requests in that state.
        stuck: The number of requests that cannot be recorded although others can.
        stuck_requests: The request ids of the first stuck requests.
        set_aside: The reports on the damaged journals in quarantine.
        processing_problem: Why requests are not processed, or why the triggers of recorded ones are
            not published, or '' if they are.
        disk_free_bytes, disk_size_bytes: The free space for the endpoint, and the size, of the disk
            of state_dir.
    """

    waiting: int | None = None
    backlog_limit: int | None = None
    oldest_seconds: float | None = None
    accepted: int | None = None
    announced: int | None = None
    recorded: int | None = None
    done: int | None = None
    stuck: int | None = None
    stuck_requests: list[str] | None = None
    set_aside: list[dict[str, Any]] = field(default_factory=list)
    processing_problem: str = ""
    disk_free_bytes: int | None = None
    disk_size_bytes: int | None = None


@dataclass
class ConfigurationReport:
    """The configuration that the endpoint uses.

    Attributes:
        applied_at: When it was applied.
        problem: Why the newest configuration is not in effect, or '' if it is.
        warnings: Valid settings that are probably mistakes.
        remediation_errors: The entries of `remediations` that are invalid and ignored.
        in_force: The keys that are not secret, with their values.
    """

    applied_at: str
    problem: str
    warnings: list[str]
    remediation_errors: list[str]
    in_force: dict[str, Any]


@dataclass
class HealthReport:
    """The health of the endpoint.

    Attributes:
        status: `ok`, `degraded` (webhooks are accepted, but something else is wrong) or
            `unavailable`.
        version: The running release.
        address: The URL that the endpoint listens on, or '' while it does not listen.
        authentication: The accepted kinds of credentials, or `none`.
        database: The kind of tracking database.
        dry_run: Whether workflows only report what they would change.
        literal_secrets: The configuration keys that contain a secret instead of a reference.
        configuration: The configuration in use.
        components: The report on each component, by name.
        paused: The pause of all changes, or None.
        certificate_expires_at: When the TLS certificate in use expires, or None without TLS.
    """

    status: str
    version: str
    address: str
    authentication: str
    database: str
    dry_run: bool
    literal_secrets: list[str]
    configuration: ConfigurationReport
    components: dict[str, ComponentReport]
    paused: dict[str, Any] | None = None
    certificate_expires_at: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        components = {name: report.as_dict() for name, report in self.components.items()}
        return {**asdict(self), "components": components}


def build_report(
    installation: Installation,
    address: str,
    applied_at: datetime,
    config_problem: str = "",
    certificate_expires_at: datetime | None = None,
) -> HealthReport:
    """Return the health report of an endpoint.

    Args:
        installation: The parts of the endpoint.
        address: The URL that it listens on, or '' while it does not listen.
        applied_at: When its configuration was applied.
        config_problem: Why the newest configuration is not in effect, or '' if it is.
        certificate_expires_at: When the TLS certificate in use expires, or None without TLS.
    """
    config, keeper = installation.config, installation.keeper
    journal, problems = _journal_report(keeper, config.backlog_limit)
    components: dict[str, ComponentReport] = {"journal": journal}
    if keeper.pipeline:
        problems.append(keeper.pipeline.pending.incidents)
        clock_offset = installation.reader.last_clock_offset
        components.update(_downstream_reports(keeper.pipeline, journal, clock_offset))
        if config.alertmanagers:
            components["monitoring"] = _monitoring_report(keeper.pipeline.components.monitoring)
    return HealthReport(
        status=_overall_status(
            components,
            list(filter(None, [*problems, config_problem, *config.remediation_errors])),
        ),
        version=poundcake.__version__,
        address=address,
        authentication=", ".join(config.authentication) or "none",
        database=database.kind(installation.reader.engine),
        dry_run=config.dry_run,
        literal_secrets=list(config.literal_secrets),
        configuration=ConfigurationReport(
            applied_at=format_timestamp(applied_at),
            problem=config_problem,
            warnings=config.warnings,
            remediation_errors=list(config.remediation_errors),
            in_force=config.settings,
        ),
        components=components,
        paused=keeper.pipeline.pause.as_json()
        if keeper.pipeline and keeper.pipeline.pause
        else None,
        certificate_expires_at=format_timestamp(certificate_expires_at)
        if certificate_expires_at
        else None,
    )


def _journal_report(keeper: JournalKeeper, backlog_limit: int) -> tuple[JournalReport, list[str]]:
    """Return the journal's report, and a sentence for each problem that degrades health."""
    quarantine_reports = keeper.quarantine_reports()
    set_aside = [report.as_dict() for report in quarantine_reports]
    problems = [str(report) for report in quarantine_reports]
    journal = keeper.journal
    details: dict[str, Any] = {}
    processing_problems: list[str] = []
    if journal:
        try:
            counts = journal.counts()
            details = _journal_details(journal, counts, backlog_limit)
            if counts.oldest_seconds > LATE_SECONDS:
                minutes = counts.oldest_seconds / 60
                problems.append(f"the oldest request has waited {minutes:.0f} min to be recorded")
            if counts.overdue_seconds > LATE_SECONDS:
                minutes = counts.overdue_seconds / 60
                late = f"the triggers of recorded requests are {minutes:.0f} min late"
                processing_problems.append(late)
        except JournalError as error:
            keeper.note_failure(str(error))
    if keeper.pipeline and keeper.pipeline.problem():
        processing_problems.append(keeper.pipeline.problem())
    problems += processing_problems
    component = keeper.component
    disk = keeper.disk_usage()
    report = JournalReport(
        component.state,
        format_timestamp(component.since),
        component.detail,
        set_aside=set_aside,
        processing_problem="; ".join(processing_problems),
        disk_free_bytes=disk.free if disk else None,
        disk_size_bytes=disk.size if disk else None,
        **details,
    )
    if journal and journal.backlog >= backlog_limit:
        report.state, report.detail = State.FULL, "backlog_limit is reached"
    elif report.state == State.OK:
        report.detail = "; ".join(filter(None, [*problems, keeper.volatility_warning()]))
    return report, problems


def _journal_details(journal: Journal, counts: JournalCounts, backlog_limit: int) -> dict[str, Any]:
    return {
        "waiting": journal.backlog,
        "backlog_limit": backlog_limit,
        "oldest_seconds": round(counts.oldest_seconds, 1),
        "accepted": counts.accepted,
        "announced": counts.announced,
        "recorded": counts.recorded,
        "done": counts.done,
        "stuck": counts.stuck,
        "stuck_requests": journal.stuck_ids(_MAX_STUCK_LISTED) if counts.stuck else [],
    }


def _downstream_reports(
    pipeline: Pipeline, journal: JournalReport, clock_offset: float | None
) -> dict[str, ComponentReport]:
    """Return the reports on the components that requests pass through after the journal."""
    components = pipeline.components
    broker = _downstream_report(components.broker, journal.accepted)
    tracking_database = _downstream_report(components.database, journal.waiting)
    tracking_database.pending = str(pipeline.pending) or None
    tracking_database.clock_offset_seconds = clock_offset
    stackstorm = _downstream_report(components.stackstorm, journal.recorded)
    stackstorm.stuck = journal.stuck_requests or []
    return {"broker": broker, "database": tracking_database, "stackstorm": stackstorm}


def _monitoring_report(component: Component) -> ComponentReport:
    return ComponentReport(component.state, format_timestamp(component.since), component.detail)


def _downstream_report(component: Component, waiting: int | None) -> DownstreamReport:
    return DownstreamReport(
        component.state, format_timestamp(component.since), component.detail, waiting or 0
    )


def _overall_status(components: dict[str, ComponentReport], problems: list[str]) -> str:
    journal = components["journal"]
    if journal.state != State.OK:
        return "unavailable"
    is_down = any(component.state == State.DOWN for component in components.values())
    is_stuck = isinstance(journal, JournalReport) and journal.stuck_requests
    return "degraded" if is_down or is_stuck or problems else "ok"
