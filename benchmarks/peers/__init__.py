"""Enrollgate beside other ways to turn rows into Jobs, under the same load.

    system     what the harness knows about a system: how to start it, what cannot be compared
    harness    the measurements: one watcher, one clock, one system at a time
    load       what Node.js does
    job        the Job that all systems create
    ours, loop, keda, prefect    the systems; poll_loop is the program of the plain loop
    suite      which system is measured how, ratios and tables

`python -m benchmarks.peers` (or `make bench-peers`) runs it and stores the results.
"""
