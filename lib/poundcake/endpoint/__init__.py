"""The webhook endpoint: everything that runs inside the sensor process.

Runs in: the sensor process, where StackStorm has replaced threads and sockets with eventlet's
green ones. A call that blocks in C must go through `native.run_in_native_thread`.

May import: `poundcake.remediation`, `poundcake.trail` and the modules directly in `poundcake`.
Nothing outside this package may import it, except the sensor.

The way of a request: `app` answers 202 once `journal` has it on the disk. `announcer` publishes it
for the action `poundcake.record` and sees it recorded; `emitter` then publishes what rules match
on; `sync_timer` has StackStorm asked what became of that. `pipeline` puts these steps together,
`worker` runs them, `retry` says when each is tried again. `service` brings all of it up and keeps
it up.
"""
