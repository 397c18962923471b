"""List the defences against loss and repetition, which rows of the fault suite guard."""

from __future__ import annotations

from tests.defences.defence import Defence, faults
from tests.defences.mutation import Edit

BUS = "poundcake.endpoint.bus:"

# Assign the ids immediately, and commit a moment later.
COMMIT_LATER = (
    "([setattr(a, 'sender_request_id', a.sender_request_id or str(uuid.uuid4())) for a in _1],"
    " [setattr(a, 'request_id', a.sender_request_id) for a in _1],"
    " threading.Timer(0.1, self._file.run, [self._commit, _1]).start())"
)

DEFENCES = [
    Defence(
        "the journal's commits are synced to the disk",
        Edit(
            "poundcake.endpoint.journal_file:_connect",
            "_1.execute('PRAGMA synchronous=FULL')",
            "_1.execute('PRAGMA synchronous=OFF')",
        ),
        faults("unsynced writes lost", 3, "sqlite"),
    ),
    Defence(
        "a 202 waits for the journal's commit",
        Edit(
            "poundcake.endpoint.group_commit:GroupCommit._commit_pending",
            "_.run_locked(self._commit, _1)",
            COMMIT_LATER,
        ),
        faults("as soon as a 202 is read", 3, "sqlite"),
    ),
    Defence(
        "an alert is done only after StackStorm has received it",
        Edit(
            "poundcake.endpoint.emitter:Emitter._complete",
            "not plan.request.unexplained_alerts",
            "True",
        ),
        faults("right after taking an alert", 2, "sqlite"),
    ),
    Defence(
        "an alert that StackStorm lost is emitted again",
        Edit("poundcake.endpoint.emission_plan:plan_emission", "_.is_lost", "False"),
        faults("right after taking an alert", 1, "sqlite"),
    ),
    Defence(
        "each workflow has at most one claim on an episode",
        Edit(
            "poundcake.trail.migrations.versions.0001_first_tables",
            "Column('claim', _1, unique=True)",
            "Column('claim', _1)",
        ),
        faults("arrive twice", 3, "mariadb"),
    ),
    Defence(
        "a publish waits for its confirm",
        Edit(
            BUS + "_stackstorm_connection",
            "{'confirm_publish': True}",
            "{'confirm_publish': False}",
        ),
        faults("webhook cut in transit", 3, "sqlite"),
    ),
    Defence(
        "an unroutable message is returned",
        Edit(BUS + "Bus._publish", "mandatory=True", "mandatory=False"),
        faults("queue unbound", 1, "sqlite"),
    ),
]
