"""Run the pack's own files in one process, without StackStorm.

This package replaces StackStorm's sensor container, rules engine, scheduler, action runner and
workflow engine, and the part of its API that the pack and the `st2` command use. Use it for a first
look and for development, never in production. tests/standin adds what only tests need.
"""
