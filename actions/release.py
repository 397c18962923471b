from pack_action import PackAction
from poundcake.trail import claims


class Release(PackAction):
    def work(self, episode, workflow=""):
        released = claims.release(self.engine(), episode, workflow)
        return {"released": released, "count": len(released)}
