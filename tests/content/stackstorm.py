"""Define StackStorm's keys for each kind of file, its runners, operators and triggers.

They are copied from st2common/models/api and contrib/runners in StackStorm 3.8.
"""

from __future__ import annotations

import re

KEYS = {
    "pack": """name ref uid description keywords version stackstorm_version python_versions author
        email contributors files dependencies system path""",
    "action": """name runner_type entry_point pack description enabled parameters output_schema
        tags notify""",
    "sensor": """class_name pack description entry_point enabled trigger_types poll_interval
        artifact_uri""",
    "trigger": "name pack description payload_schema parameters_schema tags",
    "rule": "name pack description type trigger criteria action enabled context tags",
    "alias": """name pack description enabled action_ref formats ack result extra
        immutable_parameters""",
    "policy": "name pack description enabled resource_ref policy_type parameters",
    "workflow": "version description input vars tasks output",
    "task": "action input with delay join retry next",
    "schema": """title description default multipleOf maximum exclusiveMaximum minimum
        exclusiveMinimum maxLength minLength pattern additionalItems items maxItems minItems
        uniqueItems maxProperties minProperties required secret additionalProperties definitions
        properties patternProperties dependencies enum type position immutable allOf anyOf oneOf
        not""",
}

SEMVER = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?\Z")
EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@([A-Za-z0-9-]+\.)+[A-Za-z]{2,}\Z")
REF = re.compile(r"[a-z0-9_]+\Z")
VERSIONS = re.compile(r"((>=?|<=?|=|!=)\s*\d+\.\d+\.\d+(\s*,\s*|\Z))+\Z")

OPERATORS = """matchwildcard matchregex regex iregex eq equals neq nequals ieq iequals contains
    icontains ncontains incontains startswith istartswith endswith iendswith lt lessthan gt
    greaterthan td_lt timediff_lt td_gt timediff_gt exists nexists in inside nin ninside
    search""".split()

# Parameters that a caller may pass in addition to an action's own, by runner.
SHELL = "cwd env kwarg_op sudo sudo_password timeout cmd"
REMOTE = "bastion_host hosts parallel passphrase password port private_key username dir"
RUNNERS = {
    "python-script": "content_version env log_level timeout".split(),
    "orquesta": "content_version context notify".split(),
    "local-shell-cmd": SHELL.split(),
    "remote-shell-cmd": f"{SHELL} {REMOTE}".split(),
    "remote-shell-script": f"{SHELL} {REMOTE}".replace(" cmd ", " ").split(),
    "inquirer": "roles route schema tag ttl users".split(),
    "noop": [],
}
CORE_ACTIONS = {
    "core.ask": "inquirer",
    "core.local": "local-shell-cmd",
    "core.local_sudo": "local-shell-cmd",
    "core.noop": "noop",
    "core.remote": "remote-shell-cmd",
    "core.remote_sudo": "remote-shell-cmd",
}
# The keys of a runner's parameter that an action may set (the type must stay the same). StackStorm
# registers an action that sets another key, but refuses to run it.
CHANGEABLE_RUNNER_KEYS = ("default", "description", "enum", "immutable", "required", "type")
# Runners whose result comes from this pack's own code.
OWN_RESULT_RUNNERS = ("python-script", "orquesta")

POLICIES = {
    "action.concurrency": {"threshold", "action"},
    "action.concurrency.attr": {"threshold", "action", "attributes"},
    "action.retry": {"retry_on", "max_retry_count", "delay"},
}


def cron_field(lowest=None, highest=None):
    """Return the schema of an integer within the bounds, or a string such as "*/2"."""
    bounds = {} if lowest is None else {"minimum": lowest, "maximum": highest}
    return {"anyOf": [{"type": "string"}, {"type": "integer"}], **bounds}


TEXT = {"type": "string"}
# StackStorm's own triggers, with the schemas of their parameters.
CORE_TRIGGERS = {
    "core.st2.generic.actiontrigger": {},
    "core.st2.webhook": {"url": {"type": "string", "required": True}},
    "core.st2.CronTimer": {
        "timezone": TEXT,
        "year": cron_field(),
        "month": cron_field(1, 12),
        "day": cron_field(1, 31),
        "week": cron_field(1, 53),
        "day_of_week": cron_field(0, 6),
        "hour": cron_field(0, 23),
        "minute": cron_field(0, 59),
        "second": cron_field(0, 59),
    },
    "core.st2.IntervalTimer": {
        "timezone": TEXT,
        "unit": {"enum": ["weeks", "days", "hours", "minutes", "seconds"], "required": True},
        "delta": {"type": "integer", "required": True},
    },
}
