"""What the operator shows to people and programs: log lines, metrics and probes.

    logging   how log lines are written, by the whole program
    metrics   what Prometheus reads
    health    whether the operator is alive and ready
    http      the HTTP server of /livez, /readyz and /metrics

Imports `domain` and `common` only. Only `commands` and `control` import it: a worker has no
metrics.
"""
