from pack_action import PackAction
from poundcake.trail import queries, search, text


class ExecutionsRecent(PackAction):
    def work(self, limit=20, offset=0, format="json", **filters):
        answer = self.view(
            queries.executions_recent, filters=search.parse(**filters), limit=limit, offset=offset
        )
        return text.executions_recent(answer) if format == "text" else answer
