"""The part of a kubelet's own API that `kubectl logs` needs: the API server passes such requests on to the node."""

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.cluster.control_plane.certificates import Pair


def serve(log_of: Callable[[str, str], Path | None], pair: Pair) -> ThreadingHTTPServer:
    """Serves `/containerLogs/<namespace>/<pod>/<container>` over TLS on a free port of 127.0.0.1, until it is shut down."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            parts, query = url.path.strip("/").split("/"), parse_qs(url.query)
            path = log_of(parts[1], parts[2]) if parts[0] == "containerLogs" and len(parts) == 4 else None
            if path is None or not path.exists():
                self.send_error(404)
                return
            content = path.read_bytes()
            if "tailLines" in query:
                lines = content.splitlines(keepends=True)
                content = b"".join(lines[max(0, len(lines) - int(query["tailLines"][0])) :])
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, name="kubelet-logs", daemon=True).start()
    return server
