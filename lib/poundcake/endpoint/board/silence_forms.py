"""Alertmanager's own form for a new silence, with its matchers filled in."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

from poundcake.config import Config
from poundcake.trail.silences import SilenceTarget

# The form reads no label whose name contains one of these (ui/app/src/Utils/Filter.elm).
_NOT_IN_FORM = re.compile(r"[\s{}!=~,\\\"'`]")
_MAX_FORM_URL = 8000  # characters


def silence_forms(config: Config, target: SilenceTarget) -> list[dict[str, str]]:
    """Return Alertmanager's forms for a new silence, with a matcher for each label.

    The form is that of the Alertmanager that sent the alert or, if that one is not configured, of
    each configured one. The list is empty if the form cannot read the labels.
    """
    if any(_NOT_IN_FORM.search(name) for name in target.labels):
        return []
    matchers = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in sorted(target.labels.items())
    )
    urls = [server.external_url for server in config.alertmanagers]
    if target.external_url in urls:
        urls = [target.external_url]
    form = f"/#/silences/new?filter={quote(f'{{{matchers}}}', safe='')}"
    if len(form) > _MAX_FORM_URL:
        return []
    return [{"server": url, "url": url + form} for url in dict.fromkeys(urls)]
