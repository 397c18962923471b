"""The endpoint as actions ask it, for what only it knows: journal, broker, address."""

from typing import Any, Dict, Optional
from urllib.parse import quote

import requests

from poundcake.config import Config

_TIMEOUT = (2, 8)  # seconds to connect, to answer


def status(config: Config, request_id: str) -> Optional[Dict[str, Any]]:
    """What the endpoint knows of a request; None where it knows nothing or cannot be reached."""
    answer = _get(config, f"/api/v1/status/{quote(request_id, safe='')}")
    return answer.json() if answer is not None and answer.status_code == 200 else None


def health(config: Config) -> Optional[Dict[str, Any]]:
    """The endpoint's own health; None where it cannot be reached."""
    answer = _get(config, "/api/v1/health")
    if answer is None or answer.status_code not in (200, 503):
        return None
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if "components" in found else None


def _get(config: Config, path: str) -> Optional[requests.Response]:
    headers = {}
    if config.auth_tokens:
        headers["Authorization"] = f"Bearer {config.auth_tokens[0]}"
    try:
        # A proxy of the environment is for other hosts than the endpoint's own.
        with requests.Session() as session:
            session.trust_env = False
            return session.get(config.endpoint + path, headers=headers, timeout=_TIMEOUT)
    except requests.RequestException:
        return None
