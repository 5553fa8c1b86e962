"""Tokens stay with the site that they are meant for, and a referrer tells another site little."""

import pytest

from enrollgate.worker.downloaders.headers import cut_referer, headers_for_url

HEADERS = {
    "Authorization": "Bearer t",
    "X-Udemy-Authorization": "Bearer t",
    "Cookie": "session=t",
    "X-Api-Key": "t",
    "User-agent": "yt-dlp",
    "Range": "bytes=1-",
    "Accept": "*/*",
}
NEUTRAL = {"User-agent", "Range", "Accept"}


@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [
        ("https://a.example/1", "https://a.example/2", set(HEADERS)),
        ("https://a.example/1", "https://A.example.:443/2", set(HEADERS)),
        ("http://a.example/1", "https://a.example/1", set(HEADERS)),
        ("https://a.example/1", "http://a.example/1", NEUTRAL),
        ("https://a.example/1", "https://a.example:8443/1", NEUTRAL),
        ("https://a.example/1", "https://cdn.a.example/1", NEUTRAL),
        ("https://a.example/1", "https://b.example/1", NEUTRAL),
        ("https://a.example/1", "https://a.example:99999/1", NEUTRAL),
        ("https://a.example/1", "https://[", NEUTRAL),
    ],
)
def test_tokens_go_to_the_site_they_are_meant_for(source: str, target: str, kept: set[str]) -> None:
    assert set(headers_for_url(target, HEADERS, source)) == kept


@pytest.mark.parametrize(
    ("referer", "url", "expected"),
    [
        ("https://a.example/c?token=t", "https://a.example/1.mp4", "https://a.example/c?token=t"),
        ("https://a.example/c#part", "https://a.example/1.mp4", "https://a.example/c"),
        ("https://ada:pw@a.example/c", "https://a.example/1", "https://a.example/c"),
        ("https://ada:pw@a.example/c", "https://b.example/1", "https://a.example/"),
        ("https://a.example/c?token=t", "https://cdn.a.example/1.mp4", "https://a.example/"),
        ("https://a.example:8443/c", "https://a.example/1.mp4", "https://a.example:8443/"),
        ("http://a.example/c?token=t", "https://b.example/1.mp4", "http://a.example/"),
        ("https://a.example/c", "http://a.example/1.mp4", ""),
        ("file:///etc/passwd", "https://a.example/1.mp4", ""),
        ("not a URL", "https://a.example/1.mp4", ""),
        ("https://[", "https://a.example/1.mp4", ""),
        ("https://a.example:x/", "https://a.example/1.mp4", ""),
    ],
)
def test_a_referrer_is_cut_as_browsers_do(referer: str, url: str, expected: str) -> None:
    assert cut_referer(referer, url) == expected
    kept = headers_for_url(url, {"REFERER": referer}, url)
    assert kept == ({"REFERER": expected} if expected else {})
