from pack_action import PackAction
from poundcake.trail import queries, search, text


class St2Executions(PackAction):
    def work(self, status="", limit=20, offset=0, format="json", **filters):
        answer = self.live_view(
            queries.st2_executions,
            status=status,
            filters=search.parse(**filters),
            limit=limit,
            offset=offset,
            web_url=self.settings.st2_web_url,
        )
        return text.st2_executions(answer) if format == "text" else answer
