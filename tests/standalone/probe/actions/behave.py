from __future__ import annotations

import os
import sys
import time

from st2common.runners.base_action import Action


class ZetaHelper:
    def run(self):
        raise RuntimeError("this class is not the action: StackStorm takes the first class by name")


class Behave(Action):
    def run(self, how, host, seconds, path):
        if path:
            with open(path, "a") as stream:
                stream.write(f"start {host} {os.getpid()}\n")
        if how == "sleep":
            time.sleep(seconds)
            if path:
                with open(path, "a") as stream:
                    stream.write(f"end {host} {os.getpid()}\n")
        if how == "false":
            return False, "no"
        if how == "raise":
            raise ValueError("as requested")
        if how == "status":
            return "good", "x"
        if how == "object":
            return True, {"object": object()}
        if how == "exit":
            sys.exit(3)
        return ["a", "value"]
