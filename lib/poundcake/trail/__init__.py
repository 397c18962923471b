"""The tracking database: alerts, the executions that ran for them, and their outcomes.

It runs in action processes, which write the database (one short-lived process per execution), and
in the sensor process, which reads the database and claims the emission of requests.

It may import the modules directly in `poundcake`, but never `poundcake.endpoint` or
`poundcake.remediation`.
"""
