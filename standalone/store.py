"""What has happened so far: executions, trigger instances, enforcements and traces, in memory."""

import binascii
import copy
import datetime
import json
import os
import threading
import time
from collections import OrderedDict

# st2common/constants/action.py
STATUSES = (
    "requested scheduled delayed running succeeded failed timeout abandoned canceling canceled"
    " pausing paused resuming pending"
).split()
COMPLETED = ("succeeded", "failed", "timeout", "abandoned", "canceled")
LIMIT = 20000
WEIGHT_LIMIT = 256 * 1024 * 1024  # of what a table was given, as JSON; a message can have 1 MiB


def new_id():
    """Return an id of 24 hex digits that sorts by time, as MongoDB's do."""
    return f"{int(time.time()):08x}{binascii.hexlify(os.urandom(8)).decode()}"


def timestamp(seconds=None):
    """Return a moment (default: now) as StackStorm's API writes it."""
    moment = datetime.datetime.utcfromtimestamp(time.time() if seconds is None else seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Table:
    """Documents by id, oldest first; beyond the limit the oldest finished one is forgotten."""

    def __init__(self, lock, limit=LIMIT, finished=lambda document: True):
        self._documents, self._lock = OrderedDict(), lock
        self._limit, self._finished = limit, finished
        self._weights, self._weight = {}, 0

    def add(self, document):
        """Keep a document under its id and return it."""
        weight = len(json.dumps(document, default=str))
        with self._lock:
            self._documents[document["id"]] = document
            self._weights[document["id"]] = weight
            self._weight += weight
            while len(self._documents) > self._limit or self._weight > WEIGHT_LIMIT:
                oldest = next((i for i, d in self._documents.items() if self._finished(d)), None)
                if oldest is None:
                    break
                del self._documents[oldest]
                self._weight -= self._weights.pop(oldest)
        return document

    def get(self, id_):
        """Return a copy of one document, or None."""
        with self._lock:
            return copy.deepcopy(self._documents.get(id_))

    def change(self, id_, **values):
        """Set fields of one document; returns a copy, or None when it is not there."""
        with self._lock:
            document = self._documents.get(id_)
            if document is not None:
                document.update(values)
            return copy.deepcopy(document)

    def select(self, matches=lambda document: True, limit=None, offset=0):
        """Return (how many match, copies of those from offset on), the newest first."""
        with self._lock:
            found = [d for d in reversed(self._documents.values()) if matches(d)]
            end = None if limit is None else offset + limit
            return len(found), copy.deepcopy(found[offset:end])

    def count(self, matches):
        """Return how many documents match."""
        with self._lock:
            return sum(1 for document in self._documents.values() if matches(document))


class Store:
    """All tables, under one lock."""

    def __init__(self, limit=LIMIT):
        self.lock = threading.RLock()
        self.executions = Table(self.lock, limit, lambda d: d["status"] in COMPLETED)
        self.trigger_instances = Table(self.lock, limit, lambda d: d["status"].startswith("proc"))
        self.enforcements = Table(self.lock, limit)
        self.traces = Table(self.lock, limit)
        self.keys = {}
        self._trace_of = {}

    def new_trace(self, trace_tag):
        """Start a trace. Every dispatch with only a tag starts its own, as in StackStorm."""
        trace = {"id": new_id(), "trace_tag": trace_tag, "start_timestamp": timestamp()}
        trace.update(uid="trace:{}".format(trace["id"]), action_executions=[], rules=[])
        return self.traces.add(dict(trace, trigger_instances=[]))["id"]

    def extend_trace(self, trace_id, kind, object_id, ref, caused_by=None):
        """Add a trigger instance, a rule or an execution to a trace."""
        component = {"object_id": object_id, "ref": ref, "updated_at": timestamp()}
        with self.lock:
            trace = self.traces._documents.get(trace_id)
            if trace is not None:
                trace[kind].append(dict(component, caused_by=caused_by or {}))
                self._trace_of[object_id] = trace_id
            while len(self._trace_of) > 4 * LIMIT:
                self._trace_of.pop(next(iter(self._trace_of)))

    def trace_of(self, object_id):
        """Return the id of the trace that a trigger instance or an execution belongs to."""
        with self.lock:
            return self._trace_of.get(object_id)
