from __future__ import annotations

import os
import sys

import probe_lib
from st2common.runners.base_action import Action


class Show(Action):
    def run(self, **parameters):
        print("a line on stdout")
        seen = {name: os.environ.get(name) for name in os.environ if name.startswith("ST2_")}
        return True, {
            "parameters": parameters,
            "config": self.config,
            "environment": seen,
            "argv": sys.argv,
            "lib": probe_lib.NAME,
        }
