"""nginx with one location for each way in which sites serve courses.

/            files as they are
/gzip/       compressed pages and feeds
/signed/     media by signed URLs that expire (secure_link)
/limited/    a few requests at once, then 429 (limit_req)
/busy/       the same with 503, nginx's default
/patient/    the same, and a `Retry-After` that fits the limit
/single/     one request at a time, at 100 kB/s; then 503 (limit_conn)
/account/    without a session: a redirect to the login page (error_page)
/wall/       a bot wall's challenge
/members/    only with the session cookie of an account (auth_request)
/noranges/   `Range` is ignored (max_ranges 0)
/sliced/     a caching proxy that fetches its origin in slices
/slow/       200 kB/s; also as /slow-noranges/ and /slow-sliced/
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.control_plane.certificates import Authority
from tests.databases.server import free_port
from tests.webservers.process import running
from tests.webservers.site import NAME, SECRET, CourseFiles, WebServer

# The start of each configuration, with the block `http` left open. It fills in `folder`.
NGINX_HEAD = """
daemon off;
master_process on;
worker_processes 1;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 128; }}
http {{
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
"""
_CONFIG = (
    NGINX_HEAD
    + """
    types {{
        video/mp4 mp4;
        text/html html;
        application/rss+xml xml;
    }}
    log_format requests escape=json '{{"path":"$request_uri","status":$status,'
        '"method":"$request_method","sent":$body_bytes_sent,'
        '"range":"$http_range","if_range":"$http_if_range",'
        '"encoding":"$sent_http_content_encoding","protocol":"$server_protocol"}}';
    access_log {folder}/access.log requests;
    proxy_cache_path {folder}/cache keys_zone=slices:1m;
    limit_req_zone $server_name zone=few:1m rate=1r/m;
    limit_req_zone $server_name zone=patient:1m rate=12r/m;
    limit_conn_zone $server_name zone=single:1m;
    server {{
        listen 127.0.0.1:{port} ssl{http2};
        server_name {name};
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        root {root};
        location / {{ }}
        location /gzip/ {{ gzip_static always; }}
        location /signed/ {{
            secure_link $arg_md5,$arg_expires;
            secure_link_md5 "$secure_link_expires$uri {secret}";
            if ($secure_link = "") {{ return 403; }}
            if ($secure_link = "0") {{ return 410; }}
            alias {root}/media/;
        }}
        location /limited/ {{
            limit_req zone=few burst=1 nodelay;
            limit_req_status 429;
            alias {root}/media/;
        }}
        location /busy/ {{
            limit_req zone=few burst=1 nodelay;
            alias {root}/media/;
        }}
        location /patient/ {{
            limit_req zone=patient burst=1 nodelay;
            limit_req_status 429;
            add_header Retry-After 6 always;
            alias {root}/media/;
        }}
        location /single/ {{
            limit_conn single 1;
            limit_rate 100k;
            alias {root}/media/;
        }}
        location /account/ {{
            auth_request /auth;
            error_page 401 = @login;
        }}
        location @login {{ return 302 /login?next=$uri; }}
        location = /login {{
            default_type text/html;
            return 200 '<title>Log in</title><form><input type="password" name="p"></form>';
        }}
        location /wall/ {{
            default_type text/html;
            add_header cf-mitigated challenge always;
            return 403 '<title>Just a moment...</title>';
        }}
        location /members/ {{
            auth_request /auth;
            alias {root}/media/;
        }}
        location = /auth {{
            internal;
            if ($cookie_session = "not-enrolled") {{ return 403; }}
            if ($cookie_session != "ada") {{ return 401; }}
            return 204;
        }}
        location /noranges/ {{
            max_ranges 0;
            alias {root}/media/;
        }}
        location /slow/ {{
            limit_rate 200k;
            alias {root}/media/;
        }}
        location /slow-noranges/ {{
            limit_rate 200k;
            max_ranges 0;
            alias {root}/media/;
        }}
        location /slow-sliced/ {{
            limit_rate 200k;
            slice 64k;
            proxy_cache slices;
            proxy_cache_key $uri$slice_range;
            proxy_set_header Range $slice_range;
            proxy_cache_valid 200 206 1h;
            proxy_pass http://127.0.0.1:{origin}/media/;
        }}
        location /sliced/ {{
            slice 64k;
            proxy_cache slices;
            proxy_cache_key $uri$slice_range;
            proxy_set_header Range $slice_range;
            proxy_cache_valid 200 206 1h;
            proxy_pass http://127.0.0.1:{origin}/media/;
        }}
    }}
    server {{
        listen 127.0.0.1:{origin};
        access_log off;
        root {root};
    }}
}}
"""
)


@contextmanager
def run_nginx(folder: Path, config: str, **values: object) -> Iterator[None]:
    """Run nginx with this configuration for this block. `folder` and `values` fill it in."""
    path = folder / "nginx.conf"
    path.write_text(config.format(folder=folder, **values))
    with running(
        ["nginx", "-p", str(folder), "-c", str(path), "-e", f"{folder}/error.log"], folder
    ):
        yield


@contextmanager
def start_nginx(
    folder: Path, *, http2: bool = False, authority: Authority | None = None
) -> Iterator[WebServer]:
    """Run nginx for this block. Its files and logs are below `folder`.

    `authority` signs its certificate; without one, it gets an authority of its own.
    """
    authority, port, origin = authority or Authority(folder), free_port(), free_port()
    pair = authority.server(names=(NAME,))
    root = folder / "root"
    files = CourseFiles(root, f"https://{NAME}:{port}")
    root.mkdir()
    with run_nginx(
        folder,
        _CONFIG,
        root=root,
        port=port,
        origin=origin,
        name=NAME,
        secret=SECRET,
        certificate=pair.certificate,
        key=pair.key,
        http2=" http2" if http2 else "",
    ):
        yield WebServer(folder / "access.log", port, authority.certificate, files)
