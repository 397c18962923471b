"""Two clustered Alertmanagers and a Prometheus in front of an endpoint.

`world` starts them, and cuts and restores the connections between them.
`python -m tests.cluster` (`make soak`) causes random disturbances, and compares the open alerts of
the endpoint with those of the Alertmanagers.
"""
