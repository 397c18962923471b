"""The addresses of pages in StackStorm's web UI (routes `/history` and `/inquiry` of st2web)."""

from __future__ import annotations


def execution_url(web_url: str, execution_id: str) -> str:
    """Return the address of the page of an execution, or '' if the web UI is not configured."""
    return _page(web_url, "history", execution_id)


def inquiry_url(web_url: str, inquiry_id: str) -> str:
    """Return the address of the page on which an inquiry is answered, or ''."""
    return _page(web_url, "inquiry", inquiry_id)


def _page(web_url: str, route: str, row_id: str) -> str:
    return f"{web_url.rstrip('/')}/#/{route}/{row_id}" if web_url and row_id else ""
