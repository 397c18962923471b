"""Build the OpenAPI description of the endpoint from openapi.yaml and the configuration."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Sequence

# PyYAML is part of StackStorm and already loaded in its sensor processes, so the pack's
# requirements do not list it.
import yaml

from poundcake import __version__

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "openapi.yaml")
# Prefer the loader in C: the one in Python takes 0.1 s, during which no green thread runs.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNAUTHENTICATED = str(HTTPStatus.UNAUTHORIZED.value)
_FROM_ANOTHER_SITE = str(HTTPStatus.FORBIDDEN.value)


def description(authentication: Sequence[str]) -> dict[str, Any]:
    """Return the OpenAPI document of an endpoint.

    Args:
        authentication: The kinds of credentials, from `Config.authentication`. OpenAPI 3.0 cannot
            describe a client certificate, so if one is accepted, the other kinds are described as
            optional.
    """
    document: dict[str, Any] = json.loads(_as_json())
    schemes = document["components"]["securitySchemes"]
    document["info"]["version"] = __version__
    document["security"] = [{way: []} for way in authentication if way in schemes]
    if any(way not in schemes for way in authentication):
        document["security"].append({})
    # An endpoint without credentials never answers 401. One with credentials never answers 403:
    # it does not check for requests from other sites.
    impossible = _FROM_ANOTHER_SITE if authentication else _UNAUTHENTICATED
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop(impossible, None)
    return document


@lru_cache(maxsize=None)
def _as_json() -> str:
    with open(_PATH, encoding="utf-8") as file:
        return json.dumps(yaml.load(file, Loader=_LOADER))
