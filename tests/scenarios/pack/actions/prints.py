"""An action that returns the output of a host."""

from __future__ import annotations

import base64
import json
import sys

from st2common.runners.base_action import Action


class Prints(Action):
    def run(self, texts, fails):
        """Print the texts, and return them in every form that an action's output can have."""
        texts = json.loads(base64.b64decode(texts).decode())
        for text in texts:
            print(text)
        print(" ".join(" ".join(texts).splitlines()), file=sys.stderr)
        output = {"stdout": "\n".join(texts), "files": texts, "processes": {t: t for t in texts}}
        return not fails, output
