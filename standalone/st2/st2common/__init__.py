"""Replace the modules of StackStorm's st2common that the pack imports."""
