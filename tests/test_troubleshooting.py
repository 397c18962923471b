"""Each symptom in docs/TROUBLESHOOTING.md is produced by a test, and its text is in the code.

A cure that is an action of a person outside the tests, such as the replacement of a disk, is seen
to work as far as a test can: the cause is removed, and the endpoint continues.
"""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests import documents

PAGE = documents.ROOT / "docs" / "TROUBLESHOOTING.md"
BY_HAND = "by hand: "
SERVICE = "tests/lib/endpoint/test_service.py::"
RECONFIGURATION = "tests/lib/endpoint/test_reconfiguration.py::"
AUTHENTICATION = "tests/lib/endpoint/test_authentication.py::"
BOARD = "tests/browser/test_board_script.py::"
ANNOUNCER = "tests/lib/endpoint/test_announcer.py::"
HEALTH = "tests/lib/endpoint/test_health.py::"
WEBHOOK = "tests/lib/endpoint/test_webhook.py::"
DATABASE = "tests/lib/trail/test_database.py::"
COPY = "tests/lib/trail/test_copy_trail.py::"
REASONS = "tests/scenarios/test_reasons.py::"
ONE_ALERT = "tests/scenarios/test_one_alert.py::"
REMEDIATION = "tests/scenarios/test_remediation.py::"
# {the first cell of each row: the test that produces the symptom and removes its cause}
TESTS = {
    "`st2 pack install file://…` fails: `detected dubious ownership in repository at …`": (
        "tests/test_troubleshooting.py::test_git_refuses_a_clone_of_another_user_until_it_is_allowed"
    ),
    "`connection refused` on port 8000": SERVICE + "test_the_endpoint_starts_once_its_port_is_free",
    "the log: `cannot listen on …`": RECONFIGURATION
    + "test_a_port_in_use_is_retried_until_it_is_free",
    "the log: `configuration: …`": RECONFIGURATION
    + "test_a_configuration_broken_at_the_start_is_used_once_it_is_repaired",
    "health: `keeping the previous configuration: …`": RECONFIGURATION
    + "test_a_broken_configuration_is_not_applied",
    "health: `state_dir: restart the sensor to use …`": RECONFIGURATION
    + "test_a_changed_state_dir_waits_for_a_restart_and_other_changes_are_applied",
    "health: `… for actions and … for the endpoint`": "tests/scenarios/test_configuration.py::"
    + "test_a_registered_change_takes_effect_within_thirty_seconds",
    "401": AUTHENTICATION + "test_other_credentials_are_refused",
    "403, `answers only to loopback names`": "tests/lib/endpoint/test_browser_guard.py::"
    + "test_a_host_name_from_dns_rebinding_is_refused",
    "403, `the credential … has the scope …`": AUTHENTICATION
    + "test_a_credential_with_scope_read_cannot_post",
    "401 in a browser, `Sign in to see this page`": AUTHENTICATION
    + "test_a_browser_is_asked_for_a_password",
    "the board: `The endpoint does not answer since …`": BOARD
    + "test_the_page_says_since_when_the_endpoint_does_not_answer",
    "the board: `You have been signed out since …`": BOARD
    + "test_the_page_says_that_the_person_is_signed_out",
    "401, `… minutes from this machine's clock`": AUTHENTICATION
    + "test_a_signature_timestamp_more_than_5_minutes_off_is_refused",
    "413": WEBHOOK + "test_a_body_over_the_limit_is_refused",
    "415": WEBHOOK + "test_the_refusal_of_a_content_type_suggests_an_accepted_one",
    "503, `database or disk is full` or `disk I/O error`": SERVICE
    + "test_a_full_disk_loses_no_accepted_request",
    "503, `Permission denied` or `cannot write … permission denied`": SERVICE
    + "test_an_unwritable_state_directory_is_reported_until_it_is_writable",
    "503, `another endpoint uses this state_dir`": SERVICE
    + "test_an_endpoint_waits_while_its_state_directory_is_in_use",
    "503, `written by another release of the pack`": SERVICE
    + "test_a_journal_of_another_release_is_not_changed",
    "503, `too many requests are waiting to be recorded: …`": "tests/lib/endpoint/test_app.py::"
    + "test_webhooks_are_refused_while_the_backlog_is_full",
    "503, `… the previous journal was damaged too`": SERVICE
    + "test_a_journal_damaged_again_soon_is_not_quarantined_again",
    "the log: `broker: down: …`, `database: down: …` or `stackstorm: down: …`": (
        "tests/scenarios/test_log.py::test_an_outage_is_logged_once_however_many_requests_wait"
    ),
    "a request stays `accepted`": SERVICE + "test_requests_wait_while_the_broker_is_unavailable",
    "a request stays `announced`": ANNOUNCER + "test_stackstorm_is_queried_for_the_reason",
    "health: `execution … is stuck in status …` (often after RabbitMQ was down)": (
        "tests/lib/stackstorm/test_client.py::test_the_process_that_does_not_start_an_execution_is_named"
    ),
    "health: `the oldest request has waited … min to be recorded`": HEALTH
    + "test_a_request_that_waits_for_two_minutes_degrades_health",
    "health: `the thread … has ended` or `has hung`": SERVICE + "test_an_ended_thread_is_restarted",
    "a request is marked as stuck": ANNOUNCER
    + "test_a_request_that_cannot_be_recorded_is_isolated_and_marked_stuck",
    "a request is `failed`": "tests/lib/trail/test_record.py::"
    + "test_a_request_that_cannot_be_parsed_does_not_affect_others",
    "`the endpoint reads the tracking database …`": "tests/lib/trail/test_record.py::"
    + "test_a_request_for_another_database_is_refused",
    "`the database server cannot be used: binlog_format is STATEMENT …`": DATABASE
    + "test_statement_based_replication_is_refused",
    "`the database server cannot be used: max_allowed_packet …`": DATABASE
    + "test_a_server_that_allows_only_small_packets_is_refused",
    "`the tables have schema …, but this release of the pack supports only up to …`": (
        "tests/lib/trail/test_migrations.py::test_a_newer_schema_is_refused"
    ),
    "`the table … was not created by this pack`": "tests/lib/trail/test_migrations.py::"
    + "test_the_tables_of_another_program_are_refused_and_left_alone",
    "`the trail was moved to …`": "tests/scenarios/test_another_database.py::"
    + "test_the_trail_moves_under_load",
    "`the copy of the trail from … is not complete`": COPY
    + "test_the_new_database_is_not_used_before_the_copy_is_complete",
    "`… has … that this database does not have`": (
        "tests/scenarios/test_another_database.py::"
        "test_a_new_database_is_not_used_until_the_trail_is_moved"
    ),
    "health: `the views and the cooldown of hosts are slow until their indexes are built`": (
        "tests/lib/trail/test_migrations.py::test_alerts_are_recorded_before_the_indexes_are_built"
    ),
    "health: `the journal was damaged …`": SERVICE
    + "test_a_journal_damaged_while_the_endpoint_runs_is_quarantined",
    "health: `state_dir … is on …, which is cleared on reboot`": HEALTH
    + "test_a_volatile_state_dir_is_reported_without_degrading_health",
    "`admitted`, and `no rule matched`": REASONS
    + "test_a_request_that_no_rule_matched_is_replayed_without_force",
    "`admitted`, and `rule … could not start its action`": "tests/scenarios/test_rules.py::"
    + "test_the_reason_names_a_rule_that_cannot_start_its_action",
    "`duplicate`, `duplicate of …`": ONE_ALERT + "test_a_repeated_notification_starts_nothing",
    "`duplicate`, and the incident should have ended": ONE_ALERT
    + "test_an_incident_is_acknowledged_and_closed_manually",
    "`cooldown` or `rate_limited`": REASONS
    + "test_alerts_over_the_hourly_limit_of_their_name_are_rate_limited",
    "`malformed`": WEBHOOK + "test_one_malformed_alert_does_not_affect_the_others",
    "`claimed: false`, stage `not_claimed`": ONE_ALERT
    + "test_a_workflow_handles_an_episode_once_until_its_claim_is_released",
    "stage `ended`": REASONS + "test_a_replay_remediates_again_only_with_force",
    "`… is up and refuses connections`, `the name … could not be resolved`": REMEDIATION
    + "test_only_a_host_that_does_not_answer_is_remediated",
    "stage `refused`": "tests/lib/remediation/test_safety.py::"
    + "test_each_control_refuses_with_its_value_and_a_remedy",
    "`its new execution is unknown`": "tests/lib/trail/test_retry_refused.py::"
    + "test_the_views_show_a_retry_whose_outcome_is_unknown",
    "`allowed_hosts is empty, so no host is allowed`": "tests/lib/remediation/test_safety.py::"
    + "test_empty_allowed_hosts_permit_no_change",
    "stage `dry_run`, or `dry run: nothing was changed`": REMEDIATION
    + "test_every_view_shows_that_a_dry_run_changed_nothing",
    "`no answer from …` or `… answered 401 (endpoint_url)`": "tests/lib/test_endpoint_client.py::"
    + "test_wrong_credentials_are_reported_as_a_refusal",
    "`open executions are shown as of the last sync: …`": (
        "tests/lib/endpoint/board/test_episode_page.py::test_a_problem_of_stackstorm_is_shown"
    ),
    "a list says `at least`": "tests/lib/trail/queries/test_bounded_search.py::"
    + "test_an_incomplete_count_is_marked_as_a_lower_bound",
    "brackets and quotes look odd in the result of an action": (
        "tests/scenarios/test_hostile_corpus.py::"
        "test_the_views_show_text_verbatim_and_their_actions_return_it_inert"
    ),
}
# Texts of other programs, or that the code assembles from several parts.
OTHER_TEXTS = {
    "st2 pack install file://…",  # a command
    "detected dubious ownership in repository at …",  # git
    "connection refused",  # curl
    "database or disk is full",  # SQLite
    "disk I/O error",  # SQLite
    "Permission denied",  # the operating system
    "claimed: false",  # a field of a result
    "broker: down: …",  # the code adds the name of the component
    "database: down: …",
    "stackstorm: down: …",
    "… answered 401 (endpoint_url)",  # the code adds the status
    "open executions are shown as of the last sync: …",  # the code adds which executions
    "The endpoint does not answer since …",  # board.js adds the time
    "You have been signed out since …",
    "the database server cannot be used: binlog_format is STATEMENT …",
    "the database server cannot be used: max_allowed_packet …",
}


def rows():
    """Return the cells of each symptom on the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("| ") and not line.startswith("| what you see")
    ]


SYMPTOMS = [cells[0] for cells in rows()]


def test_each_symptom_has_a_cause_and_a_cure():
    assert SYMPTOMS and [cells for cells in rows() if len(cells) != 3 or "" in cells] == []


def test_each_symptom_has_a_test():
    assert set(SYMPTOMS) == set(TESTS)


@pytest.mark.parametrize(("symptom", "test"), TESTS.items(), ids=list(TESTS))
def test_each_test_exists(symptom, test):
    if test.startswith(BY_HAND):
        assert len(test) > len(BY_HAND), "say why it cannot be tested"
        return
    file, _, function = test.partition("::")
    text = (documents.ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"def {function}\(", text), f"{symptom}: {test} does not exist"


def test_each_message_on_the_page_is_in_the_code():
    files = [*documents.ROOT.glob("lib/**/*.py"), *documents.ROOT.glob("actions/*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    # Join the parts of a text that spans several lines, and drop the names of its values.
    source = re.sub(r"\{[^{}\n]*\}", "…", re.sub(r'"\s*\n\s*f?"', "", source))
    missing = [
        part
        for symptom in SYMPTOMS
        for message in re.findall("`([^`]+)`", symptom)
        if message not in OTHER_TEXTS
        for part in filter(None, (text.strip(" :,") for text in message.split("…")))
        if part not in source
    ]
    assert missing == []


def test_git_refuses_a_clone_of_another_user_until_it_is_allowed(tmp_path):
    """StackStorm clones the folder of `st2 pack install file://…` with git."""
    repository = tmp_path / "poundcake"
    environment = {**os.environ, "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    environment.pop("GIT_CONFIG_GLOBAL", None)
    # As if the folder belonged to another user.
    other_user = {**environment, "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}

    def clone(name):
        command = ["git", "clone", "-q", f"file://{repository}", str(tmp_path / name)]
        return subprocess.run(
            command, check=False, env=other_user, stderr=subprocess.PIPE, text=True
        )

    subprocess.run(["git", "init", "-q", str(repository)], env=environment, check=True)
    refused = clone("refused")
    if refused.returncode == 0:
        pytest.skip("this version of git does not check the owner")
    assert f"detected dubious ownership in repository at '{repository}/.git'" in refused.stderr
    install = documents.ROOT / "docs" / "INSTALL.md"
    command = documents.find_block(install, "sh", "safe.directory")
    command = command.replace("--system", "--global")  # of the folder in HOME
    subprocess.run(["sh", "-ec", command], cwd=repository, env=environment, check=True)
    assert clone("allowed").returncode == 0
