"""Nothing lost, nothing run twice: held by the fault suite."""

from tests.defences.defence import Defence, faults

JOURNAL, RELAY, BUS = (f"lib/poundcake/endpoint/{name}.py" for name in ("journal", "relay", "bus"))

DEFENCES = [
    Defence(
        "the journal's commits are synced to the disk",
        JOURNAL,
        'db.execute("PRAGMA synchronous=FULL")',
        'db.execute("PRAGMA synchronous=OFF")',
        faults("unsynced writes lost", 3, "sqlite"),
    ),
    Defence(
        "a 202 waits for the journal's commit",
        JOURNAL,
        "native.run_in_native_thread(self._commit, batch)",
        "[setattr(a, 'wanted_id', a.wanted_id or str(uuid.uuid4())) for a in batch]\n"
        "                    [setattr(a, 'request_id', a.wanted_id) for a in batch]\n"
        "                    threading.Timer(0.1, self._commit, [batch]).start()",
        faults("as soon as a 202 is read", 3, "sqlite"),
    ),
    Defence(
        "done is what the far end has told",
        RELAY,
        "if not request.open:",
        "if True:",
        faults("with an alert just taken", 2, "sqlite"),
    ),
    Defence(
        "what StackStorm lost is emitted again",
        RELAY,
        "if again and row.explanation == sync.RETRY",
        "if False",
        faults("with an alert just taken", 1, "sqlite"),
    ),
    Defence(
        "one claim for an episode and a workflow",
        "lib/poundcake/trail/migrations/versions/0001_first_tables.py",
        'Column("claim", String(255), unique=True)',
        'Column("claim", String(255))',
        faults("arrive twice", 3, "mariadb"),
    ),
    Defence(
        "a publish waits for its confirm",
        BUS,
        '"confirm_publish": True',
        '"confirm_publish": False',
        faults("webhook cut on its way", 3, "sqlite"),
    ),
    Defence(
        "a message that no queue takes comes back",
        BUS,
        "mandatory=True",
        "mandatory=False",
        faults("queue unbound", 1, "sqlite"),
    ),
]
