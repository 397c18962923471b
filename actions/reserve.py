"""Decide whether a workflow may make its change now, and count the change if it may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Sequence

from pack_action import PackAction
from poundcake.config import ConfigError
from poundcake.errors import PoundCakeError
from poundcake.remediation import safety
from poundcake.remediation.approval import read_approval
from poundcake.remediation.checks import TcpResult, try_check_host
from poundcake.remediations import Mode, Remediation
from poundcake.trail import database
from poundcake.trail.limits import ChangeRequest
from poundcake.trail.recorded_alert import read_labels


class Reserve(PackAction):
    """Run poundcake.reserve."""

    def work(
        self,
        target: Sequence[str] = (),
        entry: str = "",
        mode: str = "live",
        host_checks: Sequence[str] = (),
        check_host: bool = False,
        **values: Any,
    ) -> dict[str, Any]:
        """Return the decision. It is a refusal if the tracking database is unavailable."""
        request = ChangeRequest(target_labels=tuple(target), **values)
        request = self._with_host_checks(request, host_checks)
        approved_by = ""
        configured_entry = self.settings.remediation(entry) if entry else None
        if entry and configured_entry is None:
            objection = f"the configuration no longer has a valid remediation {entry}"
            request = replace(request, objection=objection)
        needs_approval = configured_entry and Mode.ASK in (configured_entry.mode, Mode(mode))
        if configured_entry and needs_approval and not request.preview:
            approval = read_approval(
                self.stackstorm(), request.execution_id, configured_entry.approvers
            )
            approved_by = approval.by
            request = replace(
                request, approval_problem=approval.problem, approval_expired=approval.has_expired
            )
        host_check = None
        try:
            if check_host:
                host_check = self.retry_while_unavailable(lambda: self._check_host(request))
                request = safety.with_host_check(request, host_check)
            decision, request = self.retry_while_unavailable(
                lambda: self._reserve(request, configured_entry, host_checks)
            )
        except database.DatabaseError as error:
            decision = safety.refuse_without_database(self.settings, request, error)
        silenced = False
        silence_problem = ""
        if decision.may_change and not request.preview and configured_entry:
            silenced = configured_entry.silence_minutes > 0
            if silenced:
                silence_problem = self._silence_alert(request, configured_entry)
        return {
            **decision.as_dict(),
            "approved_by": approved_by,
            "host_check": host_check.as_dict() if host_check else {},
            "evidence": request.evidence,
            "silenced": silenced,
            "silence_problem": silence_problem,
        }

    def _silence_alert(self, request: ChangeRequest, entry: Remediation) -> str:
        """Silence the alert during the change. Return why it is not silenced everywhere, or ''.

        The change does not depend on the silence.
        """
        from poundcake.trail import silences

        try:
            servers = self.alertmanager_clients()
            if not servers:
                return silences.NO_ALERTMANAGERS
            labels = silences.stable_labels(
                self._read_labels(request), self.settings.ignored_labels
            )
            silence = silences.ChangeSilence(
                request.execution_id, entry.name, request.action, labels, entry.silence_minutes
            )
            return "; ".join(silences.silence_during_change(servers, silence))
        except PoundCakeError as error:
            return str(error)

    def _read_labels(self, request: ChangeRequest) -> dict[str, str]:
        labels: dict[str, str] = self.view(
            read_labels, request_id=request.request_id, episode=request.episode
        )
        return labels

    def _check_host(self, request: ChangeRequest) -> TcpResult | None:
        """Check the alert's host over TCP, or return None if it may not be checked."""
        decision = safety.decide(self.settings, request, self.read_situation(request))
        return try_check_host(decision.target) if decision.may_check else None

    def _with_host_checks(self, request: ChangeRequest, checks: Sequence[str]) -> ChangeRequest:
        """Return the request with the results of the checks of the host."""
        if not checks and not request.preview:
            return request
        from poundcake.remediation.findings import read_conditions

        objection, evidence = read_conditions(
            self.stackstorm(), request.execution_id, checks, request.preview
        )
        # Evidence actions confirm nothing.
        is_confirmed = bool(checks) and not objection
        return replace(request, objection=objection, evidence=evidence, check_failed=is_confirmed)

    def _reserve(
        self, request: ChangeRequest, entry: Remediation | None, host_checks: Sequence[str]
    ) -> tuple[safety.SafetyDecision, ChangeRequest]:
        """Return the decision, and the request with what the checks saw."""
        if entry and not request.approval_problem:
            request = self._with_conditions(request, entry, host_checks)
        if not self.settings.dry_run:
            request = self._with_silences(request)
        return safety.reserve(self.engine(), self.settings, request), request

    def _with_silences(self, request: ChangeRequest) -> ChangeRequest:
        """Ask Alertmanager whether a person has silenced the alert since the last sync."""
        try:
            servers = self.alertmanager_clients()
        except ConfigError as error:
            return replace(request, alertmanager_problem=str(error))
        if not servers:
            return request
        from poundcake.remediation.silence_check import check_silences

        check = check_silences(servers, self._read_labels(request))
        return replace(request, silenced_by=check.silenced_by, alertmanager_problem=check.problem)

    def _with_conditions(
        self, request: ChangeRequest, entry: Remediation, host_checks: Sequence[str]
    ) -> ChangeRequest:
        """Check the conditions of an entry, and return the request with the result."""
        labels = self._read_labels(request)
        objection = safety.find_entry_objection(entry, labels, request.action, host_checks)
        objection = objection or request.objection
        if objection or not entry.has_conditions:
            return replace(request, objection=objection)
        decision = safety.decide(self.settings, request, self.read_situation(request))
        if not safety.may_check_conditions(decision):
            return request  # the change is refused anyway
        return safety.with_conditions(request, entry, self.check_conditions(entry, labels))
