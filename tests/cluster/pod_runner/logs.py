"""The part of a kubelet's API that `kubectl logs` needs: the API server forwards such requests."""

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.cluster.control_plane.certificates import Pair
from tests.cluster.pod_runner.life import Life


def serve(find_life: Callable[[str, str], Life | None], pair: Pair) -> ThreadingHTTPServer:
    """Serve `/containerLogs/<namespace>/<pod>/<container>` over TLS on a free port of 127.0.0.1.

    Returns a server that runs until it is shut down.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            parts, query = url.path.strip("/").split("/"), parse_qs(url.query)
            life = (
                find_life(parts[1], parts[2])
                if parts[0] == "containerLogs" and len(parts) == 4
                else None
            )
            if life is None or not life.log.exists():
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            with life.log.open("rb") as log:
                lines = log.readlines()
                wanted = int(query["tailLines"][0]) if "tailLines" in query else len(lines)
                self.wfile.write(b"".join(lines[max(0, len(lines) - wanted) :]))
                while "follow" in query and not life.gone.wait(0.2):
                    self.wfile.write(log.read())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, name="kubelet-logs", daemon=True).start()
    return server
