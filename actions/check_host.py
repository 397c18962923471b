from pack_action import PackAction
from poundcake import remediation


class CheckHost(PackAction):
    def work(self, host, port=0, wait=0):
        return remediation.check_host(host, remediation.ports_of(port), wait)
