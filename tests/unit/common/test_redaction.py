"""Redaction removes what must not be shown, in a time that is linear in the text."""

import time

import pytest

from enrollgate.common.redaction import redact

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mail ada@example.com now", "mail <e-mail> now"),
        ("/users/ada%40example.com/x", "/users/<e-mail>/x"),
        ("mysql://user:p@ss@host/courses", "mysql://host/courses"),
        ("GET https://c.example/1.mp4?sig=abc done", "GET https://c.example/1.mp4?... done"),
        ("https://c.example/#/play?token=abc", "https://c.example/#/play?..."),
        ('<a href="https://c.example/?t=1">', '<a href="https://c.example/?...">'),
        ("1http://user:secret@host/", "1http://host/"),
        ("Write to ada@example.com.", "Write to <e-mail>."),
        ("ada@mail.example.co.uk, bob@b.example; eve", "<e-mail>, <e-mail>; eve"),
        ("https://a:b@c.example/x?t=1#ada@example.com", "https://c.example/x?..."),
        ("a@b and 1@2", "a@b and 1@2"),
        ("a%40b.c and A%2540B.example", "<e-mail> and <e-mail>"),
        ("x%2By%40c.example?", "<e-mail>?"),
        ("x%40.ada%40example.com", "x%40<e-mail>"),
        ("mailto:ada@localhost, root@localhost.", "mailto:<e-mail>, <e-mail>."),
        (
            "enrollgate@sha256:abc and yt-dlp@2026.10.26",
            "enrollgate@sha256:abc and yt-dlp@2026.10.26",
        ),
        ("j\xfcrgen@b\xfccher.example", "<e-mail>"),
        ("\u7528\u6237@\u4f8b\u5b50.\u4e2d\u56fd", "<e-mail>"),
        ("ada@xn--e1afmkfd.xn--p1ai!", "<e-mail>!"),
        ("Cookie: a=b; c=d\nnext", r"Cookie: ...\nnext"),
        ("set-cookie: sid=1; Path=/", "set-cookie: ..."),
        ("{'Cookie': 'a=b; c=d', 'Accept': '*/*'}", "{'Cookie': ..., 'Accept': '*/*'}"),
        ("Authorization: Basic YTpi", "Authorization: ..."),
        ('"Proxy-Authorization": "Bearer abc"', '"Proxy-Authorization": ...'),
        ("sent Bearer ya29.a0AfH6SMBx-y_z~1", "sent Bearer ..."),
        ("Basic Programming, token of thanks", "Basic Programming, token of thanks"),
        ("https://c.example/#access_token=abc&x=1", "https://c.example/#..."),
        ("https://c.example/a;token=abc/b", "https://c.example/a;..."),
        ("https://c.example/#/lecture/3", "https://c.example/#/lecture/3"),
        ("back at #access_token=abc&state=1", "back at #access_token=...&state=1"),
        ("/v;token=abc", "/v;token=..."),
        (
            "PUT /upload/drive/v3/files?uploadType=resumable&upload_id=AbC",
            "PUT /upload/drive/v3/files?...",
        ),
        ("\u0130stanbul TOKEN=abc and Cookie: a", "\u0130stanbul TOKEN=... and Cookie: ..."),
        ("upload_id=AbC-1_2 expired", "upload_id=... expired"),
        ('{"refresh_token": "1//abc", "id": 3}', '{"refresh_token": "...", "id": 3}'),
        ("ENROLLGATE_DATABASE__PASSWORD=hunter2", "ENROLLGATE_DATABASE__PASSWORD=..."),
        ("choose a password, and what? = nothing", "choose a password, and what? = nothing"),
        ('write to "ada.king"@example.com', 'write to "<e-mail>'),
        ("ada&#64;example.com, bob&#x40;b.example", "<e-mail>, <e-mail>"),
        ("ada&commat;example&#46;com", "<e-mail>"),
        (r'{"mail":"ada\u0040example.com"}', '{"mail":"<e-mail>"}'),
        ("ada%40example%2Ecom", "<e-mail>"),
        ("ada\uff20example.com", "<e-mail>"),
        ("ada@192.168.1.4 and ada@[IPv6:2001:db8::1]", "<e-mail> and <e-mail>"),
        (r"C:\users and &amp; 100% of A&B;", r"C:\users and &amp; 100% of A&B;"),
        ("X-Api-Key: abc123def", "X-Api-Key: ..."),
        ("x-auth-token: 9f8e7d6c", "x-auth-token: ..."),
        ("password: hunter2", "password: ..."),
        ("client_secret: Zm9vYmFy1", "client_secret: ..."),
        ("aws_secret_access_key=wJalrXUt/nFEMI", "aws_secret_access_key=..."),
        ("AccountKey=abc/def==;EndpointSuffix=x", "AccountKey=...;EndpointSuffix=x"),
        ("/blob.mp4&sig=a%2Bb", "/blob.mp4&sig=..."),
        ('{"password": "two words, and more", "id": 3}', '{"password": "...", "id": 3}'),
        ("('Cookie', 'a=b; c=d')", "('Cookie', ...)"),
        ("sent Basic YWRhOmh1bnRlcjI=", "sent Basic ..."),
        ("Basic Authentication is needed", "Basic Authentication is needed"),
        ("wrong token: try again, and the key: none", "wrong token: try again, and the key: none"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x-Y_z back", "got ... back"),
        ("old ya29.a0AfH6SMBx-y_z", "old ..."),
        (
            '"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIEvg\\n-----END PRIVATE KEY-----\\n"',
            '"private_key": "...\\n"',
        ),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEvg", "..."),
        ("bell\x07 and \x1b]0;title\x07", r"bell\x07 and \x1b]0;title\x07"),
        ("red\x1b[31m\r\ttitle\x00\x9b", r"red\x1b[31m\r\ttitle\x00\x9b"),
        ("two\nlines\u2028and\u2029more\x85", r"two\nlines\u2028and\u2029more\x85"),
        ("turned \u202egpj.exe", r"turned \u202egpj.exe"),
        (
            "\u06a9\u062a\u0627\u0628\u200c\u0647\u0627",
            "\u06a9\u062a\u0627\u0628\u200c\u0647\u0627",
        ),
    ],
)
def test_redact_removes_addresses_users_and_queries(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "unit",
    [
        *("a", "a.", "a@", "a://", "x%40", "http://a?", "a b ", "a@b.", "@.", "%40%40."),
        *("a@b.c.", "://", "://@", "\x1b", "\n", "a@b.example ", "http://u:p@h/?x "),
        *(
            "cookie",
            "cookie: ",
            "Cookie: a\n",
            "authorization:'",
            "token=",
            "token= ",
            "%25",
            "%2540",
        ),
        *("#a=", ";a;", "?a", "?a=", "bearer ", "sess_", "http://x;a", "x%40.", '"token":"'),
        *("token: ", "token:", "basic ", "eyJ", "eyJabcdefgh.", "a&#64;", "a\\u0040", '"@', "&#"),
        *("-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE ", "a@[", "a@1.1.1.", "1//0", "AKIA"),
    ],
)
def test_redact_ends_for_a_megabyte_of_hostile_text(unit: str) -> None:
    """With a pattern that backtracks, this would take hours: the suite's timeout would end it."""
    text = unit * (MEGABYTE // len(unit))
    assert len(redact(text)) <= 1000
    assert "\x1b" not in redact(text)
    assert len(redact(text, limit=MEGABYTE)) <= MEGABYTE + 3


def test_a_megabyte_is_cut_to_what_a_tenth_of_a_second_suffices_for() -> None:
    shown = redact("https://c.example/1.mp4?signature=abc " * 30_000, limit=MEGABYTE)
    assert shown.startswith("https://c.example/1.mp4?... https") and shown.endswith(" ...")
    assert len(shown) < 2**18


def test_a_long_text_is_cut_before_a_parted_address_is_shown() -> None:
    text = "word " * 3198 + "ada@example.com and more " * 1000
    assert "ada@" not in redact(text, limit=1000)
    assert "ada@" not in redact(text, limit=16_000)


@pytest.mark.parametrize(
    "unit", ["x%40a.", "a@b.", "://a@", "a@b.example ", "%40%40.", "a\x1b", "token= ", "%25"]
)
def test_redaction_takes_linear_work(unit: str) -> None:
    """Twice the text takes about twice the work, in calls that the interpreter makes."""

    def work(size: int) -> float:
        text = unit * (size // len(unit))
        # The time of this thread alone, the best of several: others on this machine do not count.
        times = []
        for _ in range(5):
            start = time.thread_time()
            redact(text, limit=size)
            times.append(time.thread_time() - start)
        return min(times)

    assert work(240_000) < 5 * work(60_000) + 0.02
