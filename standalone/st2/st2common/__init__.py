"""Stands in for the modules of StackStorm's st2common that the pack imports."""
