"""The command line: what people type, and what it prints.

    cli        every command with its options; it imports the rest only when a command runs
    console    what all commands share: the two streams, and how a command fails
    layout     text that fits 80 columns
    task_diagnosis   why a task is where it is: the pure part of `explain`
    run, migrate, status, explain, logs, reasons, doctor, work, drive_login   what one command does

Nothing but `__main__` imports this package. A worker starts often and alone: `cli` and `work` must
not import the database, the operator or a Kubernetes client.
"""
