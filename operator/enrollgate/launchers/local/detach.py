"""Start a supervisor outside the operator's process tree.

    python -S detach.py RUN_DIRECTORY

pm2 and others that stop a program kill its descendants, which they find by parent process ids. So
this process forks the supervisor, prints its pid and ends: init becomes the supervisor's parent.
The supervisor leads a session of its own. Its output goes where the standard error goes.

The launcher waits for the pid, and starts this by its path, without `site`. So the fork happens
before anything else is imported: it is quick, and there is only one thread. The supervisor then
runs `site`, which finds the installed packages, as each start of Python does:
https://docs.python.org/3/library/site.html#site.main
"""

import os
import sys

# EX_TEMPFAIL of sysexits.h: no process can be started now.
EXIT_MACHINE_IS_FULL = 75

if __name__ == "__main__":
    try:
        pid = os.fork()
    except OSError as error:
        sys.stderr.write(f"the supervisor cannot be started now: {error.strerror}\n")
        sys.exit(EXIT_MACHINE_IS_FULL)
    if pid:
        os.write(sys.stdout.fileno(), str(pid).encode())
        os._exit(0)
    os.setsid()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import site

    site.main()
    from enrollgate.launchers.local.supervisor import main

    sys.exit(main(sys.argv[1:]))
