from pack_action import PackAction
from poundcake import text, views


class ExecutionsRecent(PackAction):
    def work(self, limit=20, offset=0, format="json"):
        answer = self.view(views.executions_recent, limit=limit, offset=offset)
        return text.executions_recent(answer) if format == "text" else answer
