"""Standalone, with test-only features: other packs, policies, pauses, inquiries, the datastore.

python -m tests.standin accepts the options of python -m standalone and some more. It also starts
python actions faster, each as a fork of a process that has loaded their common modules.
"""
