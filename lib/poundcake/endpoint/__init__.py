"""The webhook endpoint: everything that runs inside the sensor process.

Runs in: the sensor process, where StackStorm has replaced threads and sockets with eventlet's
green ones. A call that blocks in C must go through `native.run_in_native_thread`.

May import: `poundcake.remediation`, `poundcake.trail` and the modules directly in `poundcake`.
Nothing outside this package may import it, except the sensor.
"""
