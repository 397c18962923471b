"""The pack's own files in one process, without StackStorm.

Stands in for StackStorm's sensor container, rules engine, scheduler, action runner, workflow
engine and the part of its API that the pack and the `st2` command use. For a first look, for
development and for tests; never for production. What it does not know it refuses at start.
"""
