from pack_action import PackAction
from poundcake import announcement
from poundcake.trail.record import record_requests


class Record(PackAction):
    def work(self, version, database_id, batch, announcement_id="", count=0):
        requests = announcement.unpack(version, batch)
        return record_requests(self.engine(), self.settings, requests, database_id)
