"""Replace StackStorm's package of the same name. standalone.sensors adds its only module."""
