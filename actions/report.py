from pack_action import PackAction
from poundcake import remediation


class Report(PackAction):
    def work(self, execution_id):
        return remediation.report(self.stackstorm(), execution_id)
