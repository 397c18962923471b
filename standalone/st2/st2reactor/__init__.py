"""Replace StackStorm's package of the same name."""
