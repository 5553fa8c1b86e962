"""Runs as child processes of one Linux machine, without a cluster.

`launcher` starts one `supervisor` process per run. The two meet only in the run's directory
(`run_directory`). Only `control` and `commands` may import this package; it imports the domain,
the common tools and `launchers.base`.
"""
