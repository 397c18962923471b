"""The rules engine: which rules a trigger instance matches, and what they start."""

import json
import logging
import re

from standalone import expressions
from standalone.operators import OPERATORS
from standalone.store import new_id, timestamp

LOG = logging.getLogger("standalone.rules")


class RulesEngine:
    """Takes trigger instances and enforces the rules that match."""

    def __init__(self, content, store, executor):
        self.content, self.store, self.executor = content, store, executor

    def take(self, trigger, payload, trace_context):
        """Put a trigger instance on record. Unknown triggers are logged and lost, as there."""
        if trigger not in self.content.triggers:
            LOG.error("no trigger %s: its instance is dropped", trigger)
            return None
        instance = {"id": new_id(), "trigger": trigger, "payload": payload}
        instance.update(occurrence_time=timestamp(), status="pending")
        self.store.trigger_instances.add(instance)
        trace_id = trace_context.get("id_")
        if self.store.traces.get(trace_id) is None:
            tag = trace_context.get("trace_tag") or "trigger_instance-" + instance["id"]
            trace_id = self.store.new_trace(tag)
        self.store.extend_trace(trace_id, "trigger_instances", instance["id"], trigger)
        return instance["id"]

    def process(self, instance_id):
        """Enforce every rule that matches; the instance ends processed or processing_failed."""
        instances = self.store.trigger_instances
        instance = instances.change(instance_id, status="processing")
        try:
            for rule in self.matching(instance):
                self._enforce(rule, instance)
            instances.change(instance_id, status="processed")
        except Exception:
            LOG.exception("trigger instance %s", instance_id)
            instances.change(instance_id, status="processing_failed")

    def matching(self, instance):
        """Return the enabled rules that match; backstop rules only where no other does."""
        rules = [r for r in self.content.rules.values() if r["enabled"]]
        rules = [r for r in rules if r["trigger"]["type"] == instance["trigger"]]
        standard = [r for r in rules if r["type"]["ref"] == "standard"]
        backstop = [r for r in rules if r["type"]["ref"] == "backstop"]
        found = [rule for rule in standard if self._matches(rule, instance)]
        return found or [rule for rule in backstop if self._matches(rule, instance)]

    def _matches(self, rule, instance):
        if rule["criteria"] and not instance["payload"]:
            return False
        try:
            scope = {"trigger": instance["payload"]}
            return all(self._holds(k, c, scope) for k, c in rule["criteria"].items())
        except Exception as error:
            text = 'Failed to match rule "%s" against trigger instance "%s": %s'
            self._record(rule, instance, failure=text % (rule["ref"], instance["id"], error))
            return False

    def _holds(self, key, criterion, scope):
        pattern = criterion["pattern"]
        if isinstance(pattern, str) and expressions.is_template(pattern):
            pattern = self._render_pattern(pattern, scope)
        found = expressions.jsonpath(key.split("#", 1)[0], scope)
        value = found[0] if found else None
        operator = OPERATORS[criterion["type"]]
        if criterion["type"] == "search":
            return operator(value, pattern, criterion.get("condition", "all"), self._holds)
        return operator(value, pattern)

    def _render_pattern(self, pattern, scope):
        datastore = {"system": expressions.Datastore(self.store.keys)}
        scope = dict(scope, system=datastore["system"], st2kv=datastore)
        try:
            typed = re.sub(r"^({{)(.*)(}})$", r"\1\2 | to_complex\3", pattern)
            return json.loads(expressions.ENVIRONMENT.from_string(typed).render(scope))
        except ValueError:
            return expressions.ENVIRONMENT.from_string(pattern).render(scope)

    def _enforce(self, rule, instance):
        try:
            execution_id = self._start(rule, instance)
        except Exception as error:
            LOG.warning("rule %s: %s", rule["ref"], error)
            self._record(rule, instance, failure=str(error))
        else:
            self._record(rule, instance, execution_id=execution_id)

    def _start(self, rule, instance):
        action = self.content.actions.get(rule["action"]["ref"])
        if action is None:
            raise ValueError('Action "{}" doesn\'t exist'.format(rule["action"]["ref"]))
        trace_id = self.store.trace_of(instance["id"])
        caused_by = {"type": "trigger_instance", "id": instance["id"]}
        self.store.extend_trace(trace_id, "rules", rule["id"], rule["ref"], caused_by)
        trace = self.store.traces.get(trace_id)
        context = {
            "trigger_instance": {"id": instance["id"], "name": None},
            "rule": {"id": rule["id"], "name": rule["name"]},
            "user": "stanley",
            "pack": action["pack"],
            "trace_context": {"id_": trace_id, "trace_tag": trace["trace_tag"]},
        }
        return self.executor.request(
            action["ref"],
            rule["action"]["parameters"],
            context,
            scope={"trigger": instance["payload"]},
            rule=rule,
            trigger_instance=instance,
        )

    def _record(self, rule, instance, execution_id=None, failure=None):
        enforcement = {
            "id": new_id(),
            "trigger_instance_id": instance["id"],
            "rule": {"ref": rule["ref"], "id": rule["id"], "uid": rule["uid"]},
            "enforced_at": timestamp(),
            "status": "failed" if failure else "succeeded",
        }
        if execution_id:
            enforcement["execution_id"] = execution_id
        if failure:
            enforcement["failure_reason"] = failure
        self.store.enforcements.add(enforcement)
