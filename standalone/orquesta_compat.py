"""Make Orquesta importable on Python 3.8 to 3.12, with StackStorm's functions.

The newest Orquesta on PyPI, 1.2.0, was written for networkx 1 and for Python versions before 3.9.
This module restores the names that Orquesta needs, then imports it, and caches its schemas.
StackStorm's own Orquesta is newer and needs no changes.
"""

from __future__ import annotations

import collections
import collections.abc
import functools
import importlib
import types
from typing import Any, Callable


def load(functions: dict[str, Callable[..., Any]]) -> types.SimpleNamespace:
    """Import Orquesta, with these functions in YAQL and Jinja, and return its modules.

    Only the functions of the first call are used, because the evaluators collect them when they are
    imported.
    """
    for name in ("Mapping", "MutableSequence"):  # Python 3.10 moved them
        if not hasattr(collections, name):
            setattr(collections, name, getattr(collections.abc, name))
    _restore_networkx()
    catalog = importlib.import_module("orquesta.expressions.functions.base").load()
    catalog.update(functions)
    _cache_schemas()
    parameters = importlib.import_module("orquesta.utils.parameters")
    # Python 3.11 allows a bare inline flag only at the start of a pattern.
    pattern = parameters.REGEX_INLINE_PARAMS
    for word in ("true", "false"):
        pattern = pattern.replace(f"(?i){word}", f"(?i:{word})")
    parameters.REGEX_INLINE_PARAMS = pattern
    return types.SimpleNamespace(
        native=importlib.import_module("orquesta.specs.loader").get_spec_module("native"),
        conducting=importlib.import_module("orquesta.conducting"),
        events=importlib.import_module("orquesta.events"),
        statuses=importlib.import_module("orquesta.statuses"),
        expressions=importlib.import_module("orquesta.expressions.base"),
    )


def _restore_networkx() -> None:
    networkx = importlib.import_module("networkx")
    views = importlib.import_module("networkx.classes.reportviews")
    if not hasattr(networkx.MultiDiGraph, "node"):
        networkx.MultiDiGraph.node = property(lambda graph: graph.nodes)
    for view in (views.InMultiDegreeView, views.OutMultiDegreeView, views.MultiDegreeView):
        if not hasattr(view, "items"):
            view.items = view.__iter__


def _cache_schemas() -> None:
    """Compute the schemas of each class of specifications once, not for each task and each read."""
    spec_class = importlib.import_module("orquesta.specs.base").Spec
    compute_schema = spec_class.get_schema.__func__

    @functools.lru_cache(maxsize=None)
    def get_cached_schema(cls: type, with_meta: bool, resolve_specs: bool) -> dict:
        return compute_schema(cls, ["meta"] if with_meta else None, resolve_specs)

    def get_schema(cls: type, includes: Any = ("meta",), resolve_specs: bool = True) -> dict:
        return get_cached_schema(cls, bool(includes), resolve_specs)

    spec_class.get_schema = classmethod(get_schema)
    spec_class.get_meta_schema = classmethod(
        functools.lru_cache(maxsize=None)(spec_class.get_meta_schema.__func__)
    )
