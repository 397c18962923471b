"""Add features to the stand-in that only tests need.

These are other packs, policies, action chains, pauses, inquiries and keys of the datastore. `python
-m tests.standin` accepts the options of `python -m standalone` and a few more. It also starts
Python actions faster, each as a fork of a process that has loaded their common modules.
"""
