from pack_action import PackAction
from poundcake import endpoint_client
from poundcake.trail import health, text


class Health(PackAction):
    not_needed = ()

    def work(self, format="json"):
        answer = endpoint_client.health(self.settings)
        if answer is None:
            answer = health.from_elsewhere(self.settings, self.engine(), self.stackstorm())
        return text.health(answer) if format == "text" else answer
