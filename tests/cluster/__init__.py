"""Two clustered Alertmanagers and a Prometheus in front of an endpoint.

`world` starts them, and breaks and mends what connects them.
`python -m tests.cluster` (`make soak`) lets it happen at random, and compares the open alerts of
the endpoint with those of the Alertmanagers.
"""
