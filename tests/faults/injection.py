"""Check that everything that inject/sitecustomize.py changes exists.

Hooks and settings are applied when a process loads their module. If the name of a module is
misspelt, no process ever loads it, and without this check, the fault would simply never occur.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys

INJECT = pathlib.Path(__file__).resolve().parent / "inject" / "sitecustomize.py"


class UnknownNameError(Exception):
    """The module of a hook, or the constant of a setting, does not exist."""


def load_hooks():
    """Return the hooks by module, without installing them."""
    spec = importlib.util.spec_from_file_location("faults_inject", str(INJECT))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HOOKS


def check(settings):
    """Raise UnknownNameError if the module of a hook, or the constant of a setting, does not exist.

    The hooks themselves check their functions when they are installed.
    """
    for folder in ("lib", "standalone/st2"):
        path = str(INJECT.parents[3] / folder)
        if path not in sys.path:
            sys.path.append(path)
    for name in [*load_hooks(), *settings]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UnknownNameError(f"{name}: {error}") from None
        for setting in settings.get(name, {}):
            if not hasattr(module, setting):
                raise UnknownNameError(f"{name} has no {setting}")
