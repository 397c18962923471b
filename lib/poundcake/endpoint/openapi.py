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
from poundcake.endpoint.routes import WEBHOOK_PATH

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "openapi.yaml")
# The C loader, because the Python loader takes 0.1 s, during which no other green thread runs.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The authentication methods that every operation accepts. Their security schemes have these names.
_COMMON_METHODS = ("bearer", "basic")
_UNAUTHENTICATED = str(HTTPStatus.UNAUTHORIZED.value)
_FORBIDDEN = str(HTTPStatus.FORBIDDEN.value)


def build_description(authentication: Sequence[str], has_scopes: bool) -> dict[str, Any]:
    """Return the OpenAPI document of an endpoint.

    Args:
        authentication: The methods in `Config.authentication`. OpenAPI 3.0 cannot describe client
            certificates; if they are one of several methods, the others are marked as optional.
        has_scopes: Whether any credential has a scope other than `both`.
    """
    document: dict[str, Any] = json.loads(_as_json())
    schemes = document["components"]["securitySchemes"]
    document["info"]["version"] = __version__
    document["security"] = [{method: []} for method in _COMMON_METHODS if method in authentication]
    if any(method not in schemes for method in authentication):
        document["security"].append({})
    if "hmac" in authentication:
        webhook_operation = document["paths"][WEBHOOK_PATH]["post"]
        webhook_operation["security"] = [*document["security"], {"hmac": []}]
    # Without credentials, 401 cannot occur. With them, 403 occurs only if one has a limited scope.
    impossible_statuses = set() if authentication else {_UNAUTHENTICATED}
    if authentication and not has_scopes:
        impossible_statuses.add(_FORBIDDEN)
    for operations in document["paths"].values():
        for operation in operations.values():
            for status in impossible_statuses:
                operation["responses"].pop(status, None)
    return document


@lru_cache(maxsize=None)
def _as_json() -> str:
    with open(_PATH, encoding="utf-8") as file:
        return json.dumps(yaml.load(file, Loader=_LOADER))
