"""The operator, top to bottom: wiring, loop, reconciler and leader election.

    wiring            builds every part from the settings; runs the operator in local mode
    policy            builds the limits of decisions from the settings
    kopf_controller   runs it in Kubernetes mode: kopf watches Jobs beside the loop
    runner            prepares the database, waits for the lease, runs the loop
    leader_election   the Lease by which one of several replicas works
    loop              repeats passes, at each interval and when woken
    reconciler        one pass: observe, plan, apply

It may import every other layer but `commands`.
"""
