"""Standalone with what only tests need: other packs, policies, pauses, inquiries, the datastore.

python -m tests.standin takes the options of python -m standalone and some more. It also starts
python actions faster, each as a fork of a process that has loaded what most of them need.
"""
