"""Check that everything that inject/sitecustomize.py changes exists.

A process that never loads a module does not report a hook or a setting for it. Without this check,
a misspelt name would only mean that a fault never occurs.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys

INJECT = pathlib.Path(__file__).resolve().parent / "inject" / "sitecustomize.py"


class MisspeltError(Exception):
    """A hook or a setting names something that the product does not have."""


def load_hooks():
    """Return the hooks by module, without installing them."""
    spec = importlib.util.spec_from_file_location("faults_inject", str(INJECT))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HOOKS


def check(settings):
    """Raise MisspeltError if a hook or a setting names a missing module or constant.

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
            raise MisspeltError(f"{name}: {error}") from None
        for setting in settings.get(name, {}):
            if not hasattr(module, setting):
                raise MisspeltError(f"{name} has no {setting}")
