"""The rules engine, which starts the actions of the rules that match a trigger instance."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from standalone import expressions
from standalone.content import Content
from standalone.executor import Executor, Origin
from standalone.operators import OPERATORS
from standalone.store import Store, new_id, timestamp

LOG = logging.getLogger("standalone.rules")


class RulesEngine:
    """Store trigger instances, and enforce the rules that match them."""

    def __init__(self, content: Content, store: Store, executor: Executor):
        self.content, self.store, self.executor = content, store, executor

    def store_instance(self, trigger: str, payload: Any, trace_context: dict) -> str | None:
        """Store a trigger instance and return its id. An unknown trigger is logged and dropped."""
        if trigger not in self.content.triggers:
            LOG.error("no trigger %s: dropping its instance", trigger)
            return None
        instance = {
            "id": new_id(),
            "trigger": trigger,
            "payload": payload,
            "occurrence_time": timestamp(),
            "status": "pending",
        }
        self.store.trigger_instances.add(instance)
        tag = trace_context.get("trace_tag") or f"trigger_instance-{instance['id']}"
        trace_id = self.store.create_trace(tag)
        self.store.extend_trace(trace_id, "trigger_instances", instance["id"], trigger)
        return instance["id"]

    def process(self, instance_id: str) -> None:
        """Enforce every matching rule, then set the status to processed or processing_failed."""
        instances = self.store.trigger_instances
        instance = instances.change(instance_id, status="processing")
        try:
            for rule in self.find_matching(instance):
                self._enforce(rule, instance)
            instances.change(instance_id, status="processed")
        except Exception:
            LOG.exception("trigger instance %s", instance_id)
            instances.change(instance_id, status="processing_failed")

    def find_matching(self, instance: dict) -> list[dict]:
        """Return the enabled rules that match, or backstop rules if no other rule matches."""
        trigger = instance["trigger"]
        rules = [r for r in self.content.rules.values() if r["trigger"]["type"] == trigger]
        enabled = [rule for rule in rules if rule["enabled"]]
        for kind in ("standard", "backstop"):
            candidates = [rule for rule in enabled if rule["type"]["ref"] == kind]
            matches = [rule for rule in candidates if self._matches(rule, instance)]
            if matches:
                return matches
        return []

    def _matches(self, rule: dict, instance: dict) -> bool:
        if rule["criteria"] and not instance["payload"]:
            return False
        try:
            scope = {"trigger": instance["payload"]}
            return all(self._is_met(k, c, scope) for k, c in rule["criteria"].items())
        except Exception as error:
            text = f'Failed to match rule "{rule["ref"]}" against trigger instance'
            self._record_enforcement(
                rule, instance, failure_reason=f'{text} "{instance["id"]}": {error}'
            )
            return False

    def _is_met(self, key: str, criterion: dict, scope: dict) -> bool:
        pattern = criterion["pattern"]
        if isinstance(pattern, str) and expressions.is_template(pattern):
            pattern = self._render_pattern(pattern, scope)
        values = expressions.jsonpath(key.split("#", 1)[0], scope)
        return OPERATORS[criterion["type"]](values[0] if values else None, pattern)

    def _render_pattern(self, pattern: str, scope: dict) -> Any:
        system = expressions.Datastore(self.store.keys)
        scope = {**scope, "system": system, "st2kv": {"system": system}}
        try:
            typed_pattern = re.sub(r"^({{)(.*)(}})$", r"\1\2 | to_complex\3", pattern)
            return json.loads(expressions.ENVIRONMENT.from_string(typed_pattern).render(scope))
        except ValueError:
            return expressions.ENVIRONMENT.from_string(pattern).render(scope)

    def _enforce(self, rule: dict, instance: dict) -> None:
        try:
            execution_id = self._start(rule, instance)
        except Exception as error:
            LOG.warning("rule %s: %s", rule["ref"], error)
            self._record_enforcement(rule, instance, failure_reason=str(error))
        else:
            self._record_enforcement(rule, instance, execution_id=execution_id)

    def _start(self, rule: dict, instance: dict) -> str:
        ref = rule["action"]["ref"]
        if ref not in self.content.actions:
            raise ValueError(f'Action "{ref}" doesn\'t exist')
        trace_id = self.store.find_trace_id(instance["id"]) or ""
        caused_by = {"type": "trigger_instance", "id": instance["id"]}
        self.store.extend_trace(trace_id, "rules", rule["id"], rule["ref"], caused_by)
        trace = self.store.traces.get(trace_id)
        context = {
            "trigger_instance": {"id": instance["id"], "name": None},
            "rule": {"id": rule["id"], "name": rule["name"]},
            "user": "stanley",
            "trace_context": {"id_": trace_id, "trace_tag": trace["trace_tag"]},
        }
        parameters = rule["action"]["parameters"]
        return self.executor.request(ref, parameters, context, Origin(rule, instance))

    def _record_enforcement(self, rule: dict, instance: dict, **outcome: str) -> None:
        enforcement = {
            "id": new_id(),
            "trigger_instance_id": instance["id"],
            "rule": {"ref": rule["ref"], "id": rule["id"], "uid": rule["uid"]},
            "enforced_at": timestamp(),
            "status": "failed" if "failure_reason" in outcome else "succeeded",
        }
        self.store.enforcements.add({**enforcement, **outcome})
