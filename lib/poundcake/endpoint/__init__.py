"""The webhook endpoint: everything that runs inside the sensor process.

Runs in: the sensor process, where StackStorm has replaced threads and sockets with eventlet's
green ones. A call that blocks in C must go through `native.run_in_native_thread`.

May import: `poundcake.remediation`, `poundcake.trail` and the modules directly in `poundcake`.
Nothing outside this package may import it, except the sensor.

The path of a request:

1. `app` answers 202 once `journal` has written the request to disk.
2. `announcer` publishes the request for the action `poundcake.record`, and polls the tracking
   database until it is recorded.
3. `emitter` publishes the triggers that rules match.
4. `sync_timer` requests a sync, which polls StackStorm for the outcome.

`pipeline` defines these steps, `worker` runs them, and `retry` decides when a failed step is
retried. `service` starts all parts, and restarts those that fail.
"""
