"""Orquesta as this process needs it: importable on Python 3.8 to 3.12, with StackStorm's functions.

PyPI stops at Orquesta 1.2.0, written for networkx 1 and for Python before 3.9. What it misses is
put back before it is imported. StackStorm's own is newer and finds nothing to put back.
"""

import collections
import collections.abc
import importlib
import types


def load(functions):
    """Import Orquesta, with these functions in YAQL and Jinja, and return its parts.

    Its evaluators collect the functions once, when they are imported: a second call is too late.
    """
    for name in ("Mapping", "MutableSequence"):  # they left collections in Python 3.10
        if not hasattr(collections, name):
            setattr(collections, name, getattr(collections.abc, name))
    _restore_networkx()
    catalog = importlib.import_module("orquesta.expressions.functions.base").load()
    catalog.update(functions)
    parameters = importlib.import_module("orquesta.utils.parameters")
    # Python 3.11 takes a bare inline flag only at the start of a pattern.
    pattern = parameters.REGEX_INLINE_PARAMS
    parameters.REGEX_INLINE_PARAMS = pattern.replace("(?i)true", "(?i:true)").replace(
        "(?i)false", "(?i:false)"
    )
    return types.SimpleNamespace(
        native=importlib.import_module("orquesta.specs.loader").get_spec_module("native"),
        conducting=importlib.import_module("orquesta.conducting"),
        events=importlib.import_module("orquesta.events"),
        statuses=importlib.import_module("orquesta.statuses"),
        expressions=importlib.import_module("orquesta.expressions.base"),
        exceptions=importlib.import_module("orquesta.exceptions"),
    )


def _restore_networkx():
    networkx = importlib.import_module("networkx")
    views = importlib.import_module("networkx.classes.reportviews")
    if not hasattr(networkx.MultiDiGraph, "node"):
        networkx.MultiDiGraph.node = property(lambda graph: graph.nodes)
    for view in (views.InMultiDegreeView, views.OutMultiDegreeView, views.MultiDegreeView):
        if not hasattr(view, "items"):
            view.items = lambda self: iter(self)
