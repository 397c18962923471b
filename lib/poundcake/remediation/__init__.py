"""The tasks of a remediation workflow: decide, check, change and report.

Runs in: action processes, one short-lived process per task of a workflow.

May import: `poundcake.trail` and the modules directly in `poundcake`, but not
`poundcake.endpoint`.
"""
