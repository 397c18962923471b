"""Open the journal, reopen it after damage, and report what is wrong with it."""

from __future__ import annotations

import logging
from typing import Callable

from poundcake.config import Config
from poundcake.endpoint import quarantine
from poundcake.endpoint.filesystem import DiskUsage, disk_usage, volatile_filesystem
from poundcake.endpoint.health import Component, State
from poundcake.endpoint.journal import Journal, JournalError
from poundcake.endpoint.pipeline import Pipeline
from poundcake.trail.shared_files import make_folder

STOP_SECONDS = 1.0
"""Seconds to wait for the pipeline's current step. An unfinished step resumes at the next start."""


class JournalKeeper:
    """Own the journal of an endpoint and the pipeline that processes its requests.

    Attributes:
        component: The state of the journal, for the health view.
        journal: The open journal, or None while it cannot be opened.
        pipeline: The pipeline of the journal, or None before the journal was first opened. It is
            kept after a damaged journal is closed, until the next one is open.
    """

    def __init__(
        self, config: Config, make_pipeline: Callable[[Journal], Pipeline], log: logging.Logger
    ):
        self.component = Component(
            log, "journal", "webhooks are answered with 503, so Alertmanager retries them; retrying"
        )
        self.journal: Journal | None = None
        self.pipeline: Pipeline | None = None
        self._config = config
        self._make_pipeline = make_pipeline
        self._log = log
        # The damage that was found while the file was last open, or '' if there is none.
        self._damage = ""
        self._logged: set[str] = set()

    def ensure_open(self) -> bool:
        """Open the journal if it is not open, and check that it can be written.

        A damaged journal is replaced first.

        Returns:
            Whether the journal works.
        """
        try:
            if self.journal and self.journal.is_damaged:
                self._close_damaged(self.journal)
            if self.journal is None:
                self._open()
            elif self.journal.problem or self.component.state != State.OK:
                self.journal.check()
                self.component.mark_ok()
        except JournalError as error:
            self.note_failure(str(error))
            return False
        except OSError as error:
            self.note_failure(
                f"cannot use {error.filename}: {error.strerror}; check state_dir and its owner"
            )
            return False
        self._restart_worker()
        return True

    def close(self) -> None:
        """Stop the pipeline and close the journal."""
        if self.pipeline:
            self.pipeline.stop(STOP_SECONDS)
        if self.journal:
            self.journal.close()

    def note_accepted(self) -> None:
        """Note that a request was added to the journal, and wake the pipeline."""
        self.component.mark_ok()
        if self.pipeline:
            self.pipeline.wake()

    def problem(self) -> str:
        """Return why the journal is not open."""
        return f"the journal cannot be opened: {self.component.detail or 'starting'}"

    def note_failure(self, reason: str) -> None:
        """Note that the journal could not be written or read."""
        component = self.component
        if component.state == State.DOWN and component.detail != reason:
            self._log.warning("journal: still down: %s", reason)
        component.mark_down(reason)

    def quarantine_reports(self) -> list[quarantine.Report]:
        """Return the reports on the damaged journals that are still in quarantine."""
        return quarantine.read_reports(self._config.journal_path)

    def disk_usage(self) -> DiskUsage | None:
        """Return how full the disk of state_dir is, or None if there is no state_dir."""
        return disk_usage(self._config.state_dir)

    def volatility_warning(self) -> str:
        """Return a warning if a reboot would delete the journal, otherwise ''."""
        filesystem_type = volatile_filesystem(self._config.state_dir)
        if not filesystem_type:
            return ""
        return (
            f"state_dir {self._config.state_dir} is on {filesystem_type}, which is cleared "
            "on reboot: waiting requests would be lost; set state_dir to a folder on a disk"
        )

    def _close_damaged(self, journal: Journal) -> None:
        self.note_failure(journal.problem)
        self.journal = None
        self._damage = journal.problem
        if self.pipeline:
            self.pipeline.stop(STOP_SECONDS)
        journal.close()

    def _open(self) -> None:
        make_folder(self._config.state_dir)
        journal = Journal(self._config.journal_path, self._damage)
        try:
            pipeline = self._make_pipeline(journal)
            pipeline.start()
        except BaseException:
            self._damage = journal.problem if journal.is_damaged else ""
            journal.close()
            raise
        self._damage = ""
        self._log_state(journal)
        self.component.mark_ok()
        self.pipeline = pipeline
        self.journal = journal

    def _log_state(self, journal: Journal) -> None:
        for report in self.quarantine_reports():
            if report.file not in self._logged:
                self._logged.add(report.file)
                self._log.error("%s", report)
        warning = self.volatility_warning()
        if warning and warning not in self._logged:
            self._logged.add(warning)
            self._log.warning("%s", warning)
        waiting = journal.backlog
        if waiting:
            requests = "1 request" if waiting == 1 else f"{waiting} requests"
            self._log.info("resuming %s from the journal", requests)

    def _restart_worker(self) -> None:
        """Start the pipeline's thread again if it has ended."""
        if self.pipeline and self.pipeline.worker.is_dead():
            self._log.error("%s", self.pipeline.worker.problem())
            self.pipeline.start()
