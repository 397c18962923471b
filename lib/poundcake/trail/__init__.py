"""The tracking database: what fired, what ran for it, and how it ended.

Runs in: action processes, which write the database (one short-lived process per execution), and
the sensor process, which reads it and claims the emission of requests.

May import: the modules directly in `poundcake`. Never `poundcake.endpoint` or
`poundcake.remediation`.
"""
