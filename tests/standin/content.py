"""Packs with policies and action chains."""

from __future__ import annotations

import os

from standalone import content

CATALOGUES = (
    os.path.join(content.HERE, "core.yaml"),
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "core.yaml"),
)


class Content(content.Content):
    """The content of the packs, including their policies."""

    def __init__(self, folders, config_file=None, overrides=None, keys=None):
        self.policies = []
        super().__init__(folders, config_file, overrides, keys, CATALOGUES)
        for pack in self.packs.values():
            self.policies += [p for _, p in content.read_documents(pack["path"], "policies")]
