"""Store executions, trigger instances, enforcements and traces in memory."""

from __future__ import annotations

import binascii
import copy
import os
import threading
import time
from collections import OrderedDict
from datetime import datetime, timezone
from typing import Any, Callable

# st2common/constants/action.py
COMPLETED = ("succeeded", "failed", "timeout", "abandoned", "canceled")
LIMIT = 20_000  # maximum number of documents in a table

Document = dict


def new_id() -> str:
    """Return an id of 24 hex digits that sorts by time, like MongoDB's."""
    return f"{int(time.time()):08x}{binascii.hexlify(os.urandom(8)).decode()}"


def timestamp() -> str:
    """Return the current time in the format of StackStorm's API."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Table:
    """Documents by id, oldest first. Over the limit, the oldest finished document is dropped."""

    def __init__(
        self,
        lock: threading.RLock,
        limit: int = LIMIT,
        is_finished: Callable[[Document], bool] = lambda document: True,
    ):
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._lock, self._limit, self._is_finished = lock, limit, is_finished

    def add(self, document: Document) -> Document:
        """Store a document under its id and return it."""
        with self._lock:
            self._documents[document["id"]] = document
            if len(self._documents) > self._limit:
                finished = (i for i, d in self._documents.items() if self._is_finished(d))
                self._documents.pop(next(finished, ""), None)
        return document

    def get(self, id_: str | None) -> Any:
        """Return a copy of one document, or None."""
        with self._lock:
            return copy.deepcopy(self._documents.get(id_ or ""))

    def change(self, id_: str, **values: Any) -> Any:
        """Set fields of a document. Return a copy, or None if it does not exist."""
        with self._lock:
            document = self._documents.get(id_)
            if document is not None:
                document.update(values)
            return copy.deepcopy(document)

    def append(self, id_: str, field: str, item: Any) -> None:
        """Add an item to a list in a document, if the document exists."""
        with self._lock:
            if id_ in self._documents:
                self._documents[id_][field].append(item)

    def select(
        self,
        matches: Callable[[Document], bool] = lambda document: True,
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[int, list[Document]]:
        """Return the number of matching documents, and copies of one page, newest first."""
        with self._lock:
            documents = [d for d in reversed(self._documents.values()) if matches(d)]
            end = None if limit is None else offset + limit
            return len(documents), copy.deepcopy(documents[offset:end])


class Store:
    """All tables, which share one lock, and the keys of the datastore."""

    def __init__(self, limit: int = LIMIT):
        self.lock = threading.RLock()
        self.executions = Table(self.lock, limit, lambda d: d["status"] in COMPLETED)
        self.trigger_instances = Table(self.lock, limit, lambda d: d["status"].startswith("proc"))
        self.enforcements = Table(self.lock, limit)
        self.traces = Table(self.lock, limit)
        # The tables by their names in the API.
        self.tables = {
            "executions": self.executions,
            "triggerinstances": self.trigger_instances,
            "ruleenforcements": self.enforcements,
            "traces": self.traces,
        }
        self.keys: dict[str, str] = {}
        self._trace_ids: OrderedDict[str, str] = OrderedDict()

    def create_trace(self, trace_tag: str) -> str:
        """Create a trace and return its id. As in StackStorm, each dispatch has its own trace."""
        trace = {"id": new_id(), "trace_tag": trace_tag, "start_timestamp": timestamp()}
        components: dict[str, list] = {
            "action_executions": [],
            "rules": [],
            "trigger_instances": [],
        }
        return self.traces.add({**trace, **components, "uid": f"trace:{trace['id']}"})["id"]

    def extend_trace(
        self, trace_id: str, kind: str, object_id: str, ref: str, caused_by: dict | None = None
    ) -> None:
        """Add a trigger instance, a rule or an execution to a trace."""
        component = {"object_id": object_id, "ref": ref, "updated_at": timestamp()}
        with self.lock:
            self.traces.append(trace_id, kind, {**component, "caused_by": caused_by or {}})
            self._trace_ids[object_id] = trace_id
            while len(self._trace_ids) > 4 * LIMIT:
                self._trace_ids.popitem(last=False)

    def find_trace_id(self, object_id: str) -> str | None:
        """Return the id of the trace that a trigger instance or an execution belongs to."""
        with self.lock:
            return self._trace_ids.get(object_id)
