from pack_action import PackAction
from poundcake import announcement, tracking


class Record(PackAction):
    def work(self, version, database_id, batch, announcement_id="", count=0):
        requests = announcement.unpack(version, batch)
        return tracking.record(self.engine(), self.settings, requests, database_id)
