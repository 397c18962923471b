from pack_action import PackAction
from poundcake.trail import sync


class Sync(PackAction):
    def work(self, open=0):
        return sync.sync(self.engine(), self.settings, self.stackstorm())
