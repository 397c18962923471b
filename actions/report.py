from pack_action import PackAction
from poundcake.remediation.report import report


class Report(PackAction):
    def work(self, execution_id):
        return report(self.stackstorm(), execution_id)
