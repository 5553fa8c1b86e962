"""Which URLs may be contacted, with every known way into the private network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.domain.hosts import check_address, check_url
from enrollgate.domain.reasons import Failure, Reason


def refusal(url: str, *allowed: str) -> Reason | None:
    try:
        check_url(url, allowed)
    except Failure as failure:
        return failure.reason
    return None


INVALID, FORBIDDEN = Reason.INVALID_COURSE_URL, Reason.HOST_NOT_ALLOWED


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "ftp://a.example/x",
        "data:text/html,x",
        "/relative",
        "a.example/x",
        "",
        "https://",
        "https:///path",
        "https://user:pw@a.example/",
        "https://user@a.example/",
        "https://a.example/ x",
        "https://a.example/\n",
        "https://a.example\\@b.example/",
        "https://a.example:99999/",
        "https://[::1/",
        "https://a.example/" + "x" * 2048,
    ],
)
def test_an_unusable_course_url_is_refused(url: str) -> None:
    assert refusal(url) is INVALID


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://x.localhost/",
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://172.16.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://168.63.129.16/metadata",
        "https://192.0.0.9/",
        "https://[fec0::1]/",
        "https://[5f00::1]/",
        "https://[3fff::1]/",
        "https://[64:ff9b:1::1]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1]/",
        "https://[fc00::1]/",
        "https://0.0.0.0/",
        "https://100.64.0.1/",
        "https://224.0.0.1/",
        "https://[2002:7f00:1::]/",
        "https://[2002:a9fe:a9fe::1]/",
        "https://[64:ff9b::10.0.0.1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[64:ff9b:1:ffff::8.8.8.8]/",
        "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
        "https://[2001:0:a00:1::]/",
        "https://[::10.0.0.1]/",
        "https://[::ffff:0:10.0.0.1]/",
        "https://[::ffff:a9fe:a9fe]/",
        "https://[fd00:ec2::254]/",
        "https://[2001:db8::1]/",
        "https://[100::1]/",
        "https://[ff02::1]/",
        "https://192.0.0.192/",
        "https://192.88.99.1/",
        "https://100.100.100.200/",
        "https://198.18.0.1/",
        "https://240.0.0.1/",
        "https://255.255.255.255/",
        "https://0x7f000001/",
        "https://017700000001/",
        "https://127.0.0.1./",
        "https://１２７.0.0.1/",
        "https://127。0。0。1/",
        "https://[::1%25lo]/",
    ],
)
def test_private_addresses_and_plain_http_are_refused_by_default(url: str) -> None:
    assert refusal(url) is FORBIDDEN
    assert refusal(url, "*.example", "*") is FORBIDDEN, (
        "a wildcard must not open the private network"
    )


def test_a_public_host_over_https_is_allowed_by_default() -> None:
    assert refusal("https://courses.example.com/course/1?x=y#z") is None
    assert refusal("https://COURSES.example.com.:443/") is None
    assert refusal("https://93.184.215.14/") is None


@pytest.mark.parametrize(
    ("url", "allowed", "expected"),
    [
        ("https://a.example/", ("a.example",), None),
        ("https://bücher.example/", ("xn--bcher-kva.example",), None),
        ("https://xn--bcher-kva.example/", ("bücher.example",), None),
        ("https://a.bücher.example/", ("*.xn--bcher-kva.example",), None),
        ("https://A.Example./", ("a.example",), None),
        ("https://b.example/", ("a.example",), FORBIDDEN),
        ("https://x.a.example/", ("*.a.example",), None),
        ("https://a.example/", ("*.a.example",), FORBIDDEN),
        ("https://evila.example/", ("*.a.example",), FORBIDDEN),
        ("http://x.a.example/", ("*.a.example",), FORBIDDEN),
        ("http://a.example/", ("a.example",), None),
        ("http://127.0.0.1:8080/", ("127.0.0.1",), None),
        ("http://127.0.0.1:8080/", ("127.0.0.1:8080",), None),
        ("http://127.0.0.1:8081/", ("127.0.0.1:8080",), FORBIDDEN),
        ("http://2130706433/", ("127.0.0.1",), None),
        ("http://[::1]:80/", ("[::1]:80",), None),
        ("http://[::1]/", ("::1",), None),
        ("http://localhost/", ("localhost",), None),
    ],
)
def test_a_host_is_allowed_as_the_list_says(
    url: str, allowed: tuple[str, ...], expected: Reason | None
) -> None:
    assert refusal(url, *allowed) is expected


def test_a_name_that_resolves_to_a_private_address_is_refused() -> None:
    check_address("a.example", 443, "93.184.215.14", ())
    check_address("a.example", 443, "2606:4700::1111", ())
    # What an IPv6-only cluster makes of a public IPv4 address (RFC 6147).
    check_address("a.example", 443, "64:ff9b::5db8:d70e", ())
    check_address("a.example", 443, "127.0.0.1", ("a.example",))
    for address in (
        *("127.0.0.1", "10.1.2.3", "168.63.129.16", "192.0.0.192"),
        *("fe80::1%eth0", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::808:808"),
        *("fec0::1", "5f00::1", "3fff::1", "2002:a00:1::1", "2001:0:a00:1::"),
    ):
        with pytest.raises(Failure, match="private address"):
            check_address("a.example", 443, address, ("*.example",))


@given(
    st.text(max_size=80),
    st.sampled_from(["", "https://", "http://", "https://a.example/", "https://["]),
)
def test_any_text_is_either_allowed_or_refused(text: str, start: str) -> None:
    assert refusal(start + text) in (None, INVALID, FORBIDDEN)


@given(st.ip_addresses().filter(lambda address: not address.is_global))
def test_every_form_of_a_private_address_is_refused(address: object) -> None:
    text = f"[{address}]" if ":" in str(address) else str(address)
    assert refusal(f"https://{text}/") is FORBIDDEN
