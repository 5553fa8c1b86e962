"""Apache httpd with one location for each way in which sites serve courses.

/              files as they are
/deflate/      everything compressed (mod_deflate), whose ETags then end in `-gzip`
/members/      only with a password (mod_auth_basic): 401
/form/         only after a login (mod_auth_form): a redirect to a login page
/session/      only with a session cookie (mod_rewrite): a redirect to a login page
/slow/         200 kB/s (mod_ratelimit); also without ranges as /slow-noranges/
/noranges/     `Range` is ignored (MaxRanges none)
/attachments/  archives with `Content-Encoding: x-gzip` (AddEncoding, as old configurations have it)
/listed/       a page that lists files (mod_autoindex)
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.control_plane.certificates import Authority
from tests.databases.server import free_port
from tests.webservers.process import running
from tests.webservers.site import NAME, CourseFiles, WebServer

_MODULES = (
    *("mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic"),
    *("auth_form", "session", "session_cookie", "request", "mime", "dir", "alias", "rewrite"),
    *("headers", "env", "filter", "deflate", "ratelimit", "autoindex", "ssl", "socache_shmcb"),
    "http2",
)
_CONFIG = """
ServerRoot {folder}
PidFile {folder}/apache2.pid
DefaultRuntimeDir {folder}
Mutex file:{folder} default
ErrorLog {folder}/error.log
User www-data
Group www-data
Listen 127.0.0.1:{port}
ServerName {name}
{modules}
StartServers 1
KeepAlive {keep_alive}
{protocols}
TypesConfig /dev/null
AddType video/mp4 .mp4
AddType application/rss+xml .xml
AddType text/html .html
AddType application/pdf .pdf
AddType application/x-tar .tar
LogFormat '{{"path":"%U%q","status":%>s,"method":"%m","sent":%B,"range":"%{{Range}}i",\
"if_range":"%{{If-Range}}i","encoding":"%{{Content-Encoding}}o","protocol":"%H"}}' requests
CustomLog {folder}/access.log requests
DocumentRoot {root}
Alias /deflate/ {root}/media/
Alias /members/ {root}/media/
Alias /form/ {root}/media/
Alias /session/ {root}/media/
Alias /slow/ {root}/media/
Alias /slow-noranges/ {root}/media/
Alias /noranges/ {root}/media/
Alias /attachments/ {root}/media/
Alias /listed/ {root}/media/
<Directory {root}>
    Require all granted
</Directory>
<VirtualHost *:{port}>
    ServerName {name}
    SSLEngine on
    SSLCertificateFile {certificate}
    SSLCertificateKeyFile {key}
    <Location /deflate/>
        SetOutputFilter DEFLATE
    </Location>
    <Location /members/>
        AuthType Basic
        AuthName members
        AuthUserFile {folder}/passwords
        Require valid-user
    </Location>
    <Location /form/>
        AuthType form
        AuthName members
        AuthFormProvider file
        AuthUserFile {folder}/passwords
        AuthFormLoginRequiredLocation /login.html
        Session On
        SessionCookieName session path=/
        Require valid-user
    </Location>
    <Location /session/>
        RewriteEngine on
        RewriteCond %{{HTTP_COOKIE}} !session=ada
        RewriteRule .* /login.html [R=302,L]
    </Location>
    <LocationMatch ^/slow>
        SetOutputFilter RATE_LIMIT
        SetEnv rate-limit 200
    </LocationMatch>
    <Location /slow-noranges/>
        MaxRanges none
    </Location>
    <Location /noranges/>
        MaxRanges none
    </Location>
    <Location /attachments/>
        AddEncoding x-gzip .gz .tgz
    </Location>
    <Location /listed/>
        Options +Indexes
        IndexOptions FancyIndexing
    </Location>
</VirtualHost>
"""
_LOGIN_PAGE = """<!DOCTYPE html><html><head><title>Log in</title></head><body>
<form action="/login" method="post"><input name="user"><input name="password" type="password">
<button>Log in</button></form></body></html>
"""


@contextmanager
def start_apache(*, http2: bool = False, keep_alive: bool = True) -> Iterator[WebServer]:
    """Run Apache httpd for this block. Its files are in a folder that its own user can read."""
    with tempfile.TemporaryDirectory(prefix="apache-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        authority = Authority(folder)
        pair = authority.server(names=(NAME,))
        root = folder / "root"
        root.mkdir()
        (root / "login.html").write_text(_LOGIN_PAGE)
        (folder / "passwords").write_text("ada:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")
        modules = "\n".join(
            f"LoadModule {each}_module /usr/lib/apache2/modules/mod_{each}.so" for each in _MODULES
        )
        config = folder / "apache.conf"
        config.write_text(
            _CONFIG.format(
                folder=folder,
                root=root,
                port=port,
                name=NAME,
                modules=modules,
                certificate=pair.certificate,
                key=pair.key,
                keep_alive="On" if keep_alive else "Off",
                protocols="Protocols h2 http/1.1" if http2 else "Protocols http/1.1",
            )
        )
        with running(["apache2", "-f", str(config), "-DFOREGROUND"], folder):
            files = CourseFiles(root, f"https://{NAME}:{port}")
            yield WebServer(folder / "access.log", port, authority.certificate, files)
