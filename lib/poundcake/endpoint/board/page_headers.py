"""The header fields that all pages of the board have."""

from __future__ import annotations

# The pages load only their own style sheet and script. Nothing in the text of an alert can run,
# load anything, or send anything.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    # A browser keeps the page, but asks each time whether it has changed.
    "Cache-Control": "private, no-cache",
}
