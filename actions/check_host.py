from pack_action import PackAction
from poundcake.remediation import checks


class CheckHost(PackAction):
    def work(self, host, port=0, wait=0):
        return checks.check_host(host, checks.ports_of(port), wait)
