"""Check the URLs in the configuration."""

from __future__ import annotations

from urllib.parse import urlsplit


def check_http_url(value: str) -> None:
    """Raise ValueError if a value is not an HTTP URL, or contains a user name or a password."""
    try:
        parts = urlsplit(value)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_http = False
    if not is_http:
        raise ValueError("must be a URL that begins with http:// or https://")
    if "@" in parts.netloc:  # errors and views show the URL
        raise ValueError("must be a URL without a user name or password")
