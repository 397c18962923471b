"""Stands in for the package of this name: standalone.sensors adds what the pack imports."""
