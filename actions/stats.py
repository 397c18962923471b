from pack_action import PackAction
from poundcake.trail import search, stats, text


class Stats(PackAction):
    def work(self, format="json", **filters):
        answer = self.view(
            stats.stats,
            filters=search.parse(**filters),
            not_cleared_minutes=self.settings.not_cleared_minutes,
        )
        return text.stats(answer) if format == "text" else answer
