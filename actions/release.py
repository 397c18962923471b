from pack_action import PackAction
from poundcake import tracking


class Release(PackAction):
    def work(self, episode, workflow=""):
        released = tracking.release(self.engine(), episode, workflow)
        return {"released": released, "count": len(released)}
