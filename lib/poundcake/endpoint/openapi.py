"""The OpenAPI description of the endpoint: openapi.yaml, for the configuration that is in force."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Sequence

# It comes with StackStorm, whose sensor processes load it anyway; so the pack does not require it.
import yaml

from poundcake import __version__

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "openapi.yaml")
# In Python it takes a tenth of a second, during which no green thread runs.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNAUTHENTICATED = str(HTTPStatus.UNAUTHORIZED.value)
_FROM_ANOTHER_SITE = str(HTTPStatus.FORBIDDEN.value)


def description(authentication: Sequence[str]) -> dict[str, Any]:
    """Return the OpenAPI document of an endpoint.

    Args:
        authentication: The ways of `Config.authentication`. OpenAPI 3.0 cannot describe a client
            certificate; if that is one of several, the others are described as optional.
    """
    document: dict[str, Any] = json.loads(_as_json())
    schemes = document["components"]["securitySchemes"]
    document["info"]["version"] = __version__
    document["security"] = [{way: []} for way in authentication if way in schemes]
    if any(way not in schemes for way in authentication):
        document["security"].append({})
    # Without credentials nobody is unauthenticated; with them a page of another site has none.
    impossible = _FROM_ANOTHER_SITE if authentication else _UNAUTHENTICATED
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop(impossible, None)
    return document


@lru_cache(maxsize=None)
def _as_json() -> str:
    with open(_PATH, encoding="utf-8") as file:
        return json.dumps(yaml.load(file, Loader=_LOADER))
