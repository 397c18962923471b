"""The tracking database: alerts, the executions that ran for them, and their outcomes.

This package runs in action processes (one short-lived process per execution), which write to the
database, and in the sensor process, which mostly reads it.

It must not import `poundcake.endpoint` or `poundcake.remediation`.
"""
