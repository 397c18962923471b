"""Define the faults of two endpoints behind HAProxy, on one MariaDB and one RabbitMQ."""

from __future__ import annotations

import signal

from tests.faults import faults
from tests.faults.faults import HIT_SECONDS, MARIADB, Fault
from tests.faults.world import wait_for

# Longer than HAProxy takes to notice that an endpoint hangs: two health checks of two seconds each,
# two seconds apart.
HANG_SECONDS = (8, 10)


def kill_endpoints(*numbers):
    """Kill these endpoints at once, and start them again after a few seconds."""

    def inject(scene):
        scene.pause(0, 2)
        for number in numbers:
            scene.world.endpoints[number].process.kill()
        scene.pause(2, 4)
        scene.world.start_sensor()

    return inject


def kill_an_endpoint_at(failpoint):
    """Kill the endpoint that reaches a failpoint first, and start it again."""

    def inject(scene):
        scene.kill_at(failpoint)
        processes = [endpoint.process for endpoint in scene.world.endpoints]
        wait_for(
            lambda: not all(process.is_running for process in processes),
            HIT_SECONDS,
            "an endpoint has ended",
        )
        scene.pause(1, 2)
        scene.world.start_sensor()

    return inject


def freeze_endpoint(number):
    """Stop an endpoint from running until HAProxy passes it over, and for a while after that."""

    def inject(scene):
        process = scene.world.endpoints[number].process
        process.signal(signal.SIGSTOP)
        scene.pause(*HANG_SECONDS)
        process.signal(signal.SIGCONT)

    return inject


def kill_load_balancer(scene):
    scene.pause(0, 1)
    scene.world.load_balancer.kill()
    scene.pause(1, 3)
    scene.world.load_balancer.start()


FAULTS = [
    Fault("the first endpoint killed", kill_endpoints(0), 4, MARIADB),
    Fault("the second endpoint killed", kill_endpoints(1), 4, MARIADB),
    Fault("both endpoints killed", kill_endpoints(0, 1), 4, MARIADB),
    *(
        Fault("an endpoint killed " + moment, kill_an_endpoint_at(failpoint), 2, MARIADB)
        for failpoint, moment in faults.SENSOR_FAILPOINTS
    ),
    Fault("an endpoint hangs", freeze_endpoint(0), 2, MARIADB),
    Fault("HAProxy killed", kill_load_balancer, 2, MARIADB),
    Fault("MariaDB stopped", faults.stop_database, 3, MARIADB, keeps_webhooks=True),
    Fault("MariaDB killed", faults.kill_database, 3, MARIADB, keeps_webhooks=True),
    Fault("RabbitMQ stopped", faults.stop_broker, 2, MARIADB, keeps_webhooks=True),
    Fault("RabbitMQ killed", faults.kill_broker, 2, MARIADB, keeps_webhooks=True),
    Fault("StackStorm killed", faults.kill_stackstorm, 2, MARIADB),
]
