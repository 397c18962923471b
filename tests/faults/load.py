"""Post webhooks at a steady rate, with and without a request id, and retry until each gets a 202.

Each delivery stores the request_id of the response.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

FINGERPRINTS = 200
# How many fingerprints share one alert name, which therefore reaches the hourly limit.
FREQUENT = 10
# How many fingerprints have an alert name that no rule matches.
UNMATCHED = 10
ANSWER_SECONDS = 10
GIVE_UP_SECONDS = 120
RECEIVER = "faults"
PATH = "/api/v1/webhook"


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Notifications:
    """Generates notifications about a set of fingerprints, as Alertmanager would send them."""

    def __init__(self, seed, fingerprints=FINGERPRINTS, new_share=0.1):
        self._random = random.Random(seed)
        self._new_share = new_share
        self._inactive = [f"{i + 1:016x}" for i in range(fingerprints)]
        self._firing = {}
        self._random.shuffle(self._inactive)
        self._lock = threading.Lock()

    def next(self):
        """Return a notification with new episodes, repeats or resolves."""
        with self._lock:
            return self._next()

    def _next(self):
        draw = self._random.random()
        if not self._firing or (self._inactive and draw < self._new_share):
            count = min(self._random.choice((1, 1, 2, 3)), len(self._inactive))
            alerts = [self._fire(self._inactive.pop(0)) for _ in range(count)]
        elif draw < self._new_share + 0.25:
            alerts = [self._resolve(self._pick_firing())]
        else:
            count = self._random.randint(1, 3)
            alerts = [self._firing[self._pick_firing()] for _ in range(count)]
        return self._notification(alerts)

    def new_episodes(self, count):
        """Return a notification with this many new episodes, each of which a rule matches."""
        with self._lock:
            matching = [f for f in self._inactive if _name(f).startswith("FaultsWork0")]
            fingerprints = matching[:count]
            for fingerprint in fingerprints:
                self._inactive.remove(fingerprint)
            return self._notification([self._fire(f) for f in fingerprints])

    def _notification(self, alerts):
        """Return a notification with these alerts. No two notifications have the same body."""
        firing = any(a["status"] == "firing" for a in alerts)
        return {
            "receiver": RECEIVER,
            "status": "firing" if firing else "resolved",
            "alerts": alerts,
            "version": "4",
            "groupKey": f'{{}}:{{group="{uuid.uuid4()}"}}',
            "truncatedAlerts": 0,
        }

    def _pick_firing(self):
        return self._random.choice(sorted(self._firing))

    def _fire(self, fingerprint):
        name = _name(fingerprint)
        alert = {
            "status": "firing",
            "labels": {"alertname": name, "instance": fingerprint + ".invalid:9100"},
            "annotations": {"summary": "it is {{ broken }}"},
            "startsAt": _now(),
            "endsAt": "0001-01-01T00:00:00Z",
            "fingerprint": fingerprint,
        }
        self._firing[fingerprint] = alert
        return alert

    def _resolve(self, fingerprint):
        alert = self._firing.pop(fingerprint)
        # Append it, so that its next episode does not begin before the end of this one.
        self._inactive.append(fingerprint)
        return dict(alert, status="resolved", endsAt=_now())


def _name(fingerprint):
    number = int(fingerprint, 16)
    if number <= FREQUENT:
        return "FaultsWorkOften"
    if number <= FREQUENT + UNMATCHED:
        return "FaultsNoRule"
    return f"FaultsWork{number:04d}"


class Delivery:
    """A webhook that is posted until it is answered 202."""

    def __init__(self, notification, with_id=True):
        self.body = json.dumps(notification).encode()
        self.client_request_id = str(uuid.uuid4()) if with_id else ""
        self.sha256 = hashlib.sha256(self.body).hexdigest()
        self.tries = 0
        self.request_id = ""

    @property
    def headers(self):
        headers = {"Content-Type": "application/json"}
        return dict(
            headers, **{"X-Request-ID": self.client_request_id} if self.client_request_id else {}
        )


class Load:
    """Sends notifications between start() and stop().

    Args:
        port: The port of an endpoint, or of a proxy in front of it.
        notifications: The source of the notifications.
        seed: The seed of its pauses.
        rate: Requests per second.
        retried_statuses: The statuses after which a sender sends a notification again. Any other
            status except 202 is a problem.

    Attributes:
        rate: Requests per second.
        deliveries: All deliveries, in the order in which they were sent.
        problems: A sentence for each request without a 202, and each unexpected status.
        on_answer: If set, called with each delivery that was answered 202, in the sender's thread.
    """

    def __init__(self, port, notifications, seed, rate, retried_statuses=(503,)):
        self.port, self.notifications, self.rate = port, notifications, rate
        self._retried_statuses = retried_statuses
        self.deliveries, self.problems = [], []
        self.on_answer = None
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(32, "sender")
        self._unanswered = 0
        self._is_running = False
        self._thread = None

    def start(self):
        self._is_running = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        """Send no new notifications, but keep retrying the unanswered ones."""
        self._is_running = False
        self._thread.join()

    @property
    def unanswered(self):
        """Return the number of webhooks that have not been answered yet."""
        return self._unanswered

    def close(self):
        if self._is_running:
            self.stop()
        self._pool.shutdown(wait=False)

    def post(self, notification, with_id=True):
        """Send one notification, and return its Delivery."""
        delivery = Delivery(notification, with_id)
        self.send(delivery)
        return delivery

    def _run(self):
        next_at = time.monotonic()
        while self._is_running:
            notification = self.notifications.next()
            with_id = self._random.random() < 0.6
            # Sometimes twice, as from two Alertmanagers, or from one that did not get the response.
            for _ in range(2 if self._random.random() < 0.15 else 1):
                self.post(notification, with_id)
            next_at += self._random.uniform(0.5, 1.5) / self.rate
            time.sleep(max(0, next_at - time.monotonic()))

    def send(self, delivery):
        """Remember a delivery, and send it until it is answered 202."""
        with self._lock:
            self.deliveries.append(delivery)
            self._unanswered += 1
        self._pool.submit(self._deliver, delivery)

    def _deliver(self, delivery):
        deadline = time.monotonic() + GIVE_UP_SECONDS
        pause = 0.05
        try:
            while time.monotonic() < deadline:
                delivery.tries += 1
                if self._post_once(delivery):
                    if self.on_answer:
                        self.on_answer(delivery)
                    return
                time.sleep(pause)
                pause = min(pause * 2, 0.5)
            self.problems.append(f"no 202 within {GIVE_UP_SECONDS} s")
        finally:
            with self._lock:
                self._unanswered -= 1

    def _post_once(self, delivery):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            client.request("POST", PATH, delivery.body, delivery.headers)
            response = client.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            client.close()
        if response.status != 202:
            if response.status not in self._retried_statuses:
                self.problems.append(f"{response.status} {text[:200]}")
            return False
        delivery.request_id = json.loads(text)["request_id"]
        if delivery.client_request_id and delivery.request_id != delivery.client_request_id:
            self.problems.append("the response has a different id from the one sent")
        return True
