"""Recognise a course or an item in every attempt, although its address is signed again.

A signature changes with every attempt and every row, and it is a secret. The rest of the URL says
what it is about. Only documented ways of signing are known here, and each counts only if all of it
is there. `e`, `st` or `session_id` alone may well tell one lecture from another.

What goes in: URLs. What comes out: names without secrets. An unknown signature gives an item a new
name in each attempt; the destination then recognises the item by its content.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class _Scheme:
    """The parameters of one way of signing URLs, in lower case."""

    needed: tuple[str, ...]  # it is this way only if all of them are there
    others: tuple[str, ...] = ()  # may be there as well
    value: str = ".+"  # the value of the first one


_SCHEMES = (
    # Amazon S3, Signature Version 4, and services that are compatible with it.
    # https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
    _Scheme(
        ("x-amz-signature", "x-amz-credential", "x-amz-date"),
        (
            "x-amz-algorithm",
            "x-amz-content-sha256",
            "x-amz-expires",
            "x-amz-security-token",
            "x-amz-signedheaders",
        ),
    ),
    # Amazon S3, Signature Version 2.
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/RESTAuthentication.html
    _Scheme(("signature", "awsaccesskeyid", "expires"), ("x-amz-security-token",)),
    # Amazon CloudFront, canned and custom policy.
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/PrivateContent.html
    _Scheme(("signature", "key-pair-id", "expires"), ("hash-algorithm",)),
    _Scheme(("signature", "key-pair-id", "policy"), ("hash-algorithm",)),
    # Google Cloud Storage, V4 and V2.
    # https://cloud.google.com/storage/docs/authentication/signatures
    # https://cloud.google.com/storage/docs/access-control/signed-urls-v2
    _Scheme(
        ("x-goog-signature", "x-goog-credential", "x-goog-date"),
        ("x-goog-algorithm", "x-goog-expires", "x-goog-signedheaders"),
    ),
    _Scheme(("signature", "googleaccessid", "expires")),
    # Google Cloud CDN: a signed URL, or a signed prefix.
    # https://cloud.google.com/cdn/docs/using-signed-urls
    _Scheme(("signature", "keyname", "expires"), ("urlprefix",)),
    # Google Media CDN. https://cloud.google.com/media-cdn/docs/generate-tokens
    _Scheme(("edge-cache-token",)),
    # Azure Storage: account, service and user delegation SAS.
    # https://learn.microsoft.com/en-us/rest/api/storageservices/create-service-sas
    # https://learn.microsoft.com/en-us/rest/api/storageservices/create-user-delegation-sas
    _Scheme(
        ("sig", "sv"),
        (
            *("se", "sp", "sr", "st", "si", "sip", "spr", "ss", "srt", "ses", "sdd"),
            *("skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid"),
        ),
    ),
    # nginx secure_link with the parameters of its documentation.
    # https://nginx.org/en/docs/http/ngx_http_secure_link_module.html
    _Scheme(("md5", "expires")),
    # Akamai Auth Token 2.0. https://techdocs.akamai.com/property-mgr/docs/auth-token-2-0-ver
    *(
        _Scheme((name,), value=r"(?:.*~)?(?:exp=\d+|hmac=[0-9a-f]+)(?:~.*)?")
        for name in ("hdnts", "hdnea", "hdntl", "__token__")
    ),
    # Fastly. https://www.fastly.com/documentation/solutions/tutorials/tokens/
    _Scheme(("token",), value=r"\d{10}_(?:0x)?[0-9a-f]{40,64}"),
    # Bunny. https://docs.bunny.net/docs/cdn-token-authentication
    _Scheme(
        ("token", "expires"),
        ("token_path", "token_countries", "token_countries_blocked", "token_ver"),
    ),
    # KeyCDN. https://www.keycdn.com/support/secure-token
    _Scheme(("token", "expire")),
    # Cloudflare. https://developers.cloudflare.com/waf/custom-rules/use-cases/
    _Scheme(("verify",), value=r"\d{10}-[\w%+/=-]{43,}"),
    # CDN77. https://client.cdn77.com/support/knowledgebase/cdn/how-to-use-secure-tokens
    _Scheme(("secure",), value=r"[\w-]{22},\d{10}"),
    # JW Platform. https://docs.jwplayer.com/platform/docs/protection-studio-url-signing
    _Scheme(("sig", "exp")),
    # Wowza SecureToken with its default prefix.
    # https://www.wowza.com/docs/wowza-streaming-engine
    _Scheme(("wowzatokenhash",), ("wowzatokenstarttime", "wowzatokenendtime")),
    # Alibaba Cloud OSS, V1 and V4, and its CDN, type A.
    # https://www.alibabacloud.com/help/en/oss/developer-reference/ddd-signatures-to-urls
    # https://www.alibabacloud.com/help/en/cdn/user-guide/type-a-signing
    _Scheme(("signature", "ossaccesskeyid", "expires"), ("security-token",)),
    _Scheme(
        ("x-oss-signature", "x-oss-credential", "x-oss-date"),
        (
            "x-oss-additional-headers",
            "x-oss-expires",
            "x-oss-security-token",
            "x-oss-signature-version",
        ),
    ),
    _Scheme(("auth_key",), value=r"\d{10}-\w+-\d+-[0-9a-f]{32}"),
    # Tencent Cloud COS. https://www.tencentcloud.com/document/product/436/7778
    _Scheme(
        ("q-signature", "q-ak", "q-sign-time"),
        (
            "q-sign-algorithm",
            "q-key-time",
            "q-header-list",
            "q-url-param-list",
            "x-cos-security-token",
        ),
    ),
    # Tencent Cloud VOD. https://www.tencentcloud.com/document/product/266/33986
    _Scheme(("sign", "t"), ("us", "exper", "rlimit"), r"[0-9a-f]{32}"),
    # Laravel: for a time, and for good. https://laravel.com/docs/urls#signed-urls
    _Scheme(("signature", "expires")),
    _Scheme(("signature",), value=r"[0-9a-f]{64}"),
    # Symfony. https://symfony.com/doc/current/routing.html#signing-uris
    _Scheme(("_hash",), ("_expiration",), r"[\w%+/=-]{43,}"),
)
# Parts of a path that sign it.
_PATH_TOKENS = re.compile(
    # Akamai and those who use its format: `/exp=1700000000~acl=%2f*~hmac=0a1b.../`.
    r"/(?:(?:hdn\w+|__token__)=)?(?:st=\d+~)?exp=\d+~[^/]*hmac=[0-9a-f]+(?=/)"
    # Bunny: `/bcdn_token=...&expires=...&token_path=.../`.
    r"|/bcdn_token=[^/]+(?=/)"
    # CDN77: `/hash,expires/`.
    r"|/[\w-]{22},\d{10}(?=/)"
    # lighttpd mod_secdownload and Alibaba CDN, type C: `/md5/hexadecimal time/`.
    # https://redmine.lighttpd.net/projects/lighttpd/wiki/Docs_ModSecDownload
    r"|/[0-9a-f]{32}/[4-7][0-9a-f]{7}(?=/)"
    # Alibaba CDN, type B: `/YYYYMMDDHHMM/md5/`.
    # https://www.alibabacloud.com/help/en/cdn/user-guide/type-b-signing
    r"|/20\d{10}/[0-9a-f]{32}(?=/)",
    re.IGNORECASE,
)
# Parameters that may be a signature. If such a URL is refused, a new one may be accepted.
_MAY_SIGN = re.compile(
    r"(x-(amz|goog|oss)-.*|.*(sig|signature|token|hmac|hash|auth|session).*|expires?|exp|policy"
    r"|key-pair-id|hdn\w+|e|st|ts|md5|secure|verify)",
    re.IGNORECASE,
)


def unsigned(url: str) -> str:
    """Return the URL without what is known to sign it. All else stays as it is."""
    address, hash_sign, fragment = url.partition("#")
    path, question_mark, query = address.partition("?")
    parameters = list(_split_query(query))
    values = {name: value for name, value, _ in parameters}
    signing = set[str]()
    for scheme in _SCHEMES:
        first, *_ = scheme.needed
        if values.keys() >= set(scheme.needed) and re.fullmatch(scheme.value, values[first]):
            signing.update(scheme.needed, scheme.others)
    kept = "&".join(text for name, _, text in parameters if name not in signing)
    return _PATH_TOKENS.sub("", path) + question_mark * bool(kept) + kept + hash_sign + fragment


def is_signed(url: str) -> bool:
    """Return whether the URL may carry a signature, which may expire."""
    address = url.partition("#")[0]
    if _PATH_TOKENS.search(address):
        return True
    return any(_MAY_SIGN.fullmatch(name) for name, *_ in _split_query(address.partition("?")[2]))


def course_key(course_url: str) -> str:
    """Return 32 hexadecimal digits that name the course.

    A task whose `course_url` is corrected names another course. Files of the first course do not
    belong to the second, whatever their names are.
    """
    return hashlib.sha256(unsigned(course_url).encode(errors="replace")).hexdigest()[:32]


def digest(text: str) -> str:
    """Return 16 hexadecimal digits that stand for a text, which may be a secret."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def public_url(url: str) -> str:
    """Return the host of a URL and the last part of its path, for people to read.

    Everything else may be a secret. So may the last part if it looks random.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # `https://[oops/` is not a URL
        return ""
    folder, _, name = parts.path.rpartition("/")
    if re.search(r"[=~,;&]", name) or any(
        len(word) >= 16 and re.search(r"\d", word) and re.search(r"[A-Za-z]", word)
        for word in re.split(r"[-_ .]", unquote(name))
    ):
        name = "..."
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}/{'.../' * bool(folder)}{name}" if host else name


@dataclass(frozen=True, slots=True)
class Candidates:
    """The names that a listed item could have, the most stable first."""

    names: tuple[str, ...]


def choose_names(items: Iterable[Candidates], taken: set[str]) -> Iterator[str]:
    """Yield a name for each item that no other has. `taken` are names of others; it grows.

    A name that two items of a list share names neither of them: both get their next one. So the
    names do not depend on the order. Only what is the same by all its names is numbered. Of an
    iterator only the items so far are known.
    """
    counts = Counter[str]()
    if isinstance(items, list):
        counts.update(name for item in items for name in set(item.names))
    for item in items:
        free = (name for name in item.names if name not in taken and counts[name] <= 1)
        name = next(free, None)
        number = 1
        while name is None:
            name = item.names[-1] if number == 1 else f"{item.names[-1]}#{number}"
            name = None if name in taken else name
            number += 1
        taken.add(name)
        yield name


def _split_query(query: str) -> Iterator[tuple[str, str, str]]:
    """Yield each parameter's name in lower case, its value, and its text in the query."""
    for text in query.split("&") if query else ():
        name, _, value = text.partition("=")
        yield unquote(name).lower(), unquote(value), text
