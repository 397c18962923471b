"""The tracking database: what fired, what ran for it, and what became of it.

Runs in: action processes, which write the database (one short-lived process per execution), and
the sensor process, which only reads it.

May import: the modules directly in `poundcake`. Never `poundcake.endpoint` or
`poundcake.remediation`.
"""
