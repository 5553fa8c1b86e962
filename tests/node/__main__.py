"""Start the node and a database, and run a command beside them: `python -m tests.node COMMAND...`.

`scripts/real-node` calls this in the node's namespaces. All processes of the command share the
node, so that tests can run side by side.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.cluster.control_plane import ControlPlaneAbsent
from tests.databases import ServerAbsent, start_mariadb
from tests.node.images import IMAGE
from tests.node.node import find_parts, running_node


def main(command: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    parts = find_parts()
    if parts is None or not command:
        print("tests.node: use `scripts/real-node COMMAND...`", file=sys.stderr)
        return 2
    started = time.monotonic()
    try:
        with running_node(*parts) as cluster:
            server = start_mariadb(cluster.folder / "mariadb")
            print(f"real-node: ready after {time.monotonic() - started:.0f} s", file=sys.stderr)
            environment = {
                "ENROLLGATE_TEST_KUBECONFIG": str(cluster.kubeconfig),
                "ENROLLGATE_TEST_IMAGE": IMAGE,
                "ENROLLGATE_TEST_MARIADB_URL": server.url(""),
            }
            return subprocess.run(command, env=os.environ | environment, check=False).returncode
    except (ControlPlaneAbsent, ServerAbsent) as error:
        print(f"tests.node: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
