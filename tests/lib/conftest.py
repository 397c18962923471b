"""Where StackStorm is not installed, the stand-in's modules take the place of its own."""

import importlib.util
import os
import sys

if importlib.util.find_spec("st2common") is None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.append(os.path.join(root, "standalone", "st2"))
