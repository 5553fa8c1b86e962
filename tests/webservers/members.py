"""nginx with a course for members: `auth_basic` asks for a login without a good session.

While `limit` is on, it also limits the requests of all together (`limit_req`): two a minute.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.control_plane.certificates import Authority
from tests.databases.server import free_port
from tests.webservers.nginx import NGINX_HEAD, run_nginx
from tests.webservers.site import CourseFiles, WebServer

NAME = "members.example.test"
_CONFIG = (
    NGINX_HEAD
    + """
    types {{
        video/mp4 mp4;
        application/rss+xml xml;
    }}
    log_format requests escape=json '{{"path":"$host$request_uri","status":$status,'
        '"method":"$request_method","sent":$body_bytes_sent,'
        '"range":"$http_range","if_range":"$http_if_range",'
        '"encoding":"$sent_http_content_encoding","protocol":"$server_protocol"}}';
    access_log {folder}/access.log requests;
    map $cookie_session $realm {{ default off; old "Members"; }}
    limit_req_zone $limited zone=few:1m rate=1r/m;  # an empty key is not limited
    limit_req_status {limit_status};
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    root {root};
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name {name};
        set $limited "";
        if (-f {folder}/limited) {{ set $limited 1; }}
        location / {{
            limit_req zone=few burst=1 nodelay;
            auth_basic $realm;
            auth_basic_user_file {folder}/users;
        }}
    }}
}}
"""
)


@dataclass(frozen=True)
class MembersSite:
    """The running server. It is a `Site` of an operator's process, with one course."""

    server: WebServer

    @property
    def host(self) -> str:
        return f"{NAME}:{self.server.port}"

    @property
    def hosts_line(self) -> str:
        """The line of a hosts file that leads the name to this server."""
        return f"127.0.0.1 {NAME}\n"

    def limit(self, *, is_on: bool) -> None:
        """Limit the requests from now on, or no longer."""
        file = self.server.log.with_name("limited")
        if is_on:
            file.touch()
        else:
            file.unlink()

    def course_url(self, _course: str) -> str:
        return f"{self.server.files.url}/feed.xml"

    def enroll(self, account: str, course: str) -> None:
        """Every account is enrolled."""

    def cookies_file(self, account: str) -> str:
        """Return a cookies file whose session is the part of the address before the `@`."""
        session = account.partition("@")[0]
        line = "\t".join((NAME, "FALSE", "/", "TRUE", "4102444800", "session", session))
        return f"# Netscape HTTP Cookie File\n{line}\n"


@contextmanager
def start_members_site(folder: Path, limit_status: int = 429) -> Iterator[MembersSite]:
    """Run nginx for this block. The session `old` is asked for a login.

    `limit_status` is what it answers to one request too many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority, port = Authority(folder), free_port()
    pair = authority.server(names=(NAME,))
    root = folder / "root"
    files = CourseFiles(root, f"https://{NAME}:{port}")
    files.write_feed("feed.xml", lambda number: f"{files.url}/media/{number}.mp4")
    files.write()
    (folder / "users").write_text("")
    with run_nginx(
        folder,
        _CONFIG,
        root=root,
        port=port,
        name=NAME,
        certificate=pair.certificate,
        key=pair.key,
        limit_status=limit_status,
    ):
        yield MembersSite(WebServer(folder / "access.log", port, authority.certificate, files))
