from pack_action import PackAction
from poundcake.trail.replay import replay_request


class Replay(PackAction):
    def work(self, request_id, force=False):
        return replay_request(self.engine(), self.settings, request_id, force)
