"""Whether what inject/sitecustomize.py is to change is there.

A process that never loads a module says nothing of a hook or a setting that names none: without
this a misspelt one would only make a fault never happen.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys

INJECT = pathlib.Path(__file__).resolve().parent / "inject" / "sitecustomize.py"


class Misspelt(Exception):
    """A hook or a setting names what the product does not have."""


def hooks():
    """The hooks by module, without installing them."""
    spec = importlib.util.spec_from_file_location("faults_inject", str(INJECT))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HOOKS


def check(settings):
    """Raise Misspelt if a module of the hooks, or a module or name of the settings, is missing.

    The hooks themselves check their functions when they are installed.
    """
    for folder in ("lib", "standalone/st2"):
        path = str(INJECT.parents[3] / folder)
        if path not in sys.path:
            sys.path.append(path)
    for name in [*hooks(), *settings]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise Misspelt(f"{name}: {error}") from None
        for setting in settings.get(name, {}):
            if not hasattr(module, setting):
                raise Misspelt(f"{name} has no {setting}")
