"""Stands in for StackStorm's package of this name."""
