from pack_action import PackAction
from poundcake.trail import purge


class Purge(PackAction):
    def work(self, older_than_days=None, dry_run=False):
        return purge.purge(self.engine(), self.settings, older_than_days, dry_run)
