from __future__ import annotations

import os
import sys

import probe_lib
from st2common.runners.base_action import Action


class Show(Action):
    def run(self, **parameters):
        print("a line on stdout")
        environment = {n: value for n, value in os.environ.items() if n.startswith("ST2_")}
        return True, {
            "parameters": parameters,
            "config": self.config,
            "environment": environment,
            "argv": sys.argv,
            "lib": probe_lib.NAME,
        }
