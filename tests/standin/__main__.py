"""Run the stand-in for StackStorm with the features that tests need."""

from __future__ import annotations

import os
import sys
import types

from standalone.__main__ import PACK, StandIn, config_overrides, create_parser, run_and_exit


class TestStandIn(StandIn):
    """The stand-in with the features of StackStorm that only tests need."""

    __test__ = False  # pytest would collect it as a test

    def component_classes(self):
        """Return the classes of the stand-in's components."""
        from standalone.api import ApiServer
        from tests.standin import api, content, engine, executor

        return types.SimpleNamespace(
            Content=content.Content,
            ApiServer=ApiServer,
            Api=api.Api,
            WorkflowEngine=engine.WorkflowEngine,
            Executor=executor.Executor,
        )

    def load_content(self, content_class):
        """Load this pack and the packs in the options."""
        options = self.options
        self.store.keys.update(pair.partition("=")[::2] for pair in options.kv)
        folders = [PACK, *options.pack]
        return content_class(folders, options.config, config_overrides(options), self.store.keys)

    def start(self, ended):
        """Start all components, and let the API emit triggers."""
        if self.options.config_poll:
            sys.path.append(os.path.join(PACK, "lib"))
            from poundcake.endpoint import config_watcher

            config_watcher.POLL_SECONDS = self.options.config_poll
        self.server.api.consumer = self.consumer
        super().start(ended)


if __name__ == "__main__":
    parser = create_parser("python -m tests.standin")
    parser.add_argument(
        "--pack", metavar="DIR", action="append", default=[], help="also load this pack"
    )
    parser.add_argument("--kv", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument(
        "--config-poll",
        metavar="SECONDS",
        type=float,
        help="how often the endpoint reads its configuration",
    )
    run_and_exit(parser, TestStandIn)
