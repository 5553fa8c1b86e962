"""Names of courses and items: what signs a URL is left out, and nothing else."""

import pytest

from enrollgate.worker.downloaders.entries import Entry, candidates
from enrollgate.worker.identity import (
    Candidates,
    choose_names,
    course_key,
    is_signed,
    public_url,
    unsigned,
)

PAGE = "https://courses.example.com/a/1.mp4"
V4 = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20261128%2Fus-east-1&X-Amz-Date={n}"


@pytest.mark.parametrize(
    "query",
    [
        V4 + "&X-Amz-Expires=300&X-Amz-SignedHeaders=host&X-Amz-Signature={n}",
        "AWSAccessKeyId=AK&Expires={n}&Signature=a%2Bb{n}%3D",
        "Expires={n}&Signature=abc{n}~_&Key-Pair-Id=K2JCJMDEHXQW5F",
        "Policy=eyJ{n}__&Signature=abc{n}&Key-Pair-Id=K2JCJMDEHXQW5F",
        "X-Goog-Algorithm=GOOG4&X-Goog-Credential=a&X-Goog-Date={n}&X-Goog-Signature={n}",
        "GoogleAccessId=a%40b.iam&Expires={n}&Signature={n}",
        "Expires={n}&KeyName=k&Signature={n}",
        "sv=2024-11-04&st=x&se={n}&sr=b&sp=r&sig={n}%3D",
        "md5=u7FCPvLyV40wQDU4L2yr1A&expires={n}",
        "hdnts=exp={n}~acl=/*~hmac=0a1b{n}",
        "hdnea=st=1~exp={n}~acl=/*~hmac=0a1b{n}",
        "__token__=exp={n}~acl=/*~hmac=0a1b{n}",
        "token={n}_0x17bd1b1a0a6a2b0f3a1b2c3d4e5f60718293a4b5",
        "token=abc{n}&expires={n}&token_path=%2Fa%2F",
        "verify={n}-KVDr0wQhRIYsDBeoYHBCUgwOYvYDWh4lnjvRcbJb5pM%3D",
        "secure=u7FCPvLyV40wQDU4L2yr1A,{n}",
        "auth_key={n}-0-0-c6e1d5c8d0e1a3b4c5d6e7f8a9b0c1d2",
        "q-sign-algorithm=sha1&q-ak=a&q-sign-time={n}&q-key-time={n}&q-signature={n}",
        "sign=c6e1d5c8d0e1a3b4c5d6e7f8a9b0c1d2&t={n}&us=x",
        "expires={n}&signature=" + "0a" * 32,
    ],
)
def test_a_documented_signature_is_no_part_of_the_identity(query: str) -> None:
    first, second = (query.format(n=n) for n in (1700000001, 1800000002))
    for url in (f"{PAGE}?{first}", f"{PAGE}?{second}"):
        assert unsigned(url) == PAGE
        assert is_signed(url)
    assert unsigned(f"{PAGE}?id=4&{first}#part") == f"{PAGE}?id=4#part"


@pytest.mark.parametrize(
    "name",
    [
        *("session_id", "id_session", "e", "ts", "st", "design", "hash", "assignment"),
        *("authority", "token", "expires", "sig", "se", "sp", "sr", "exp", "policy", "signature"),
        *("md5", "key-pair-id", "x-amz-date", "auth", "t", "sign", "verify", "secure", "auth_key"),
    ],
)
def test_a_parameter_alone_that_looks_like_a_signature_counts(name: str) -> None:
    first, second = f"{PAGE}?{name}=1", f"{PAGE}?{name}=2"
    assert unsigned(first) == first
    assert course_key(first) != course_key(second)


def test_blank_and_bare_parameters_stay_as_they_are() -> None:
    for url in (f"{PAGE}?7", f"{PAGE}?a=&b", f"{PAGE}?q=a+b%20c&q=2", f"{PAGE}#lecture-2"):
        assert unsigned(url) == url
    assert course_key(f"{PAGE}#lecture-2") != course_key(f"{PAGE}#lecture-1")


@pytest.mark.parametrize(
    "token",
    [
        "hdntl=exp={n}~acl=%2f*~hmac=0a1b2c",
        "exp={n}~acl=%2Fabc%2F%2A~hmac=0a1b2c",
        "bcdn_token=abc{n}&expires={n}&token_path=%2Fa",
        "u7FCPvLyV40wQDU4L2yr1A,{n}",
        "c6e1d5c8d0e1a3b4c5d6e7f8a9b0c1d2/6a{n:.6}",
        "202611281234/c6e1d5c8d0e1a3b4c5d6e7f8a9b0{n:.4}",
    ],
)
def test_a_documented_token_in_the_path_is_no_part_of_it(token: str) -> None:
    urls = [f"https://h.example/{token.format(n=n)}/a/1.mp4" for n in ("1700000001", "1800000002")]
    assert {unsigned(url) for url in urls} == {"https://h.example/a/1.mp4"}


def choose(entries: list[Entry], listed_by: str = "Generic") -> list[str]:
    return list(choose_names([candidates(entry, listed_by) for entry in entries], set()))


def video(page_id: str, *urls: str) -> Entry:
    """An entry as yt-dlp makes it of a `<video>`."""
    return {
        "_type": "video",
        "extractor_key": "HTML5MediaEmbed",
        "id": page_id,
        "formats": [{"url": url} for url in urls],
    }


def test_videos_of_a_page_are_named_by_their_url_never_by_position() -> None:
    url = "https://h.example/{}.mp4"
    first = choose([video("view?token=a-1", url.format(0)), video("view?token=a-2", url.format(1))])
    second = choose(
        [
            video("view?token=b-1", url.format(2)),
            video("view?token=b-2", url.format(1)),
            video("view?token=b-3", url.format(0)),
        ]
    )
    assert [second[2], second[1]] == first and second[0] not in first
    assert "token" not in "".join(first + second)


def test_a_sites_own_id_counts_whatever_the_url_is() -> None:
    entry = {"_type": "url", "ie_key": "Udemy", "id": "42", "url": "https://h/a"}
    assert choose([entry]) == choose([{**entry, "url": "https://h/b"}]) == ["Udemy:42"]


def feed_item(url: str, guid: str) -> Entry:
    from yt_dlp.utils import smuggle_url

    return {"_type": "url_transparent", "url": smuggle_url(url, {"force_videoid": guid})}


def test_a_guid_counts_only_if_no_other_item_has_it() -> None:
    same = [feed_item(f"https://h/{n}.mp4", "same") for n in (1, 2)]
    assert choose(same) == list(reversed(choose(list(reversed(same)))))
    assert len(set(choose(same))) == 2
    signed = [[feed_item(f"https://h/1.mp4?token={n}", "one")] for n in (1, 2)]
    assert choose(signed[0]) == choose(signed[1])
    as_url = [[feed_item("https://h/1", f"https://h/1?md5=a&expires={n}")] for n in (1, 2)]
    assert choose(as_url[0]) == choose(as_url[1])


def test_items_that_differ_only_by_what_looks_signed_stay_two() -> None:
    pair = [feed_item(f"https://h/play?md5={n}&expires=9", "") for n in ("a", "b")]
    names = choose(pair)
    assert len(set(names)) == 2
    assert names == list(reversed(choose(list(reversed(pair))))), "the order must not matter"


def test_the_same_url_listed_twice_gives_two_names() -> None:
    assert len(set(choose([feed_item("https://h/1.mp4", "")] * 3))) == 3


def test_items_of_an_endless_list_are_named_one_by_one() -> None:
    taken = set[str]()
    pairs = [Candidates(("a", "b")), Candidates(("a", "c")), Candidates(("a", "c"))]
    names = [next(choose_names(iter([each]), taken)) for each in pairs]
    assert names == ["a", "c", "c#2"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@h.example/t0ken/1.mp4?token=x#y", "https://h.example/.../1.mp4"),
        ("https://h.example/course", "https://h.example/course"),
        ("https://h.example/a/exp=1~hmac=2", "https://h.example/.../..."),
        ("https://h.example/a/8f14e45fceea167a5a36dedd4bea2543.mp4", "https://h.example/.../..."),
        ("https://h.example/a/an-introduction-to-clay-2024", None),
        ("https://[oops/", ""),
    ],
)
def test_a_shown_url_has_no_secret(url: str, shown: str | None) -> None:
    expected = "https://h.example/.../an-introduction-to-clay-2024" if shown is None else shown
    assert public_url(url) == expected
