from pack_action import PackAction
from poundcake import tracking


class Replay(PackAction):
    def work(self, request_id, force=False):
        return tracking.replay(self.engine(), self.settings, request_id, force)
