"""Recognise a request that would enroll the account or buy something. The worker sends none.

Enrollment is Node.js's. The code that reads a site (an extractor of yt-dlp, a plugin) may still
try: Udemy's extractor opens `/course/subscribe/` of a free course, and sites redirect an account
that is not enrolled to a cart. So the request itself is refused, whoever wants to send it.

Reading is not enrolling: `GET /api-2.0/users/me/subscribed-courses/` lists the account's courses,
and `/videos/checkout/1.mp4` is a lecture about a checkout.
"""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from enrollgate.domain.reasons import Failure, Reason

# Methods that only read (RFC 9110, section 9.2.1).
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
# A segment of a path whose page enrolls or sells. Sites enroll on a GET, too: Udemy
# (`/course/subscribe/`), Moodle (`/enrol/index.php`), Shopify (`/cart/add.js`).
_ACTION = re.compile(
    r"(self[-_]?)?enroll?([-_]?(me|now|free|user|action))?|subscribe([-_]?now)?|buy[-_]?now"
    r"|add[-_]?to[-_]?(cart|basket)|cart|checkouts?",
    re.IGNORECASE,
)
# The same, unless it is the name of a course: `/courses/payments/`.
_SALE = re.compile(r"payments?|purchases?|basket|buy", re.IGNORECASE)
_COLLECTION = re.compile(r"(course|learn|lecture|lesson|video|topic|tag|categor)\w*", re.IGNORECASE)
# Words within a segment of a request that writes.
_WRITING = re.compile(
    r"enroll?|subscri(be|ption)|checkout|payment|purchase"
    r"|(?<![a-z])(cart|basket|buy|orders?)(?![a-z])",
    re.IGNORECASE,
)
# A GraphQL request names in its body what it does (https://spec.graphql.org/, "mutation").
_MUTATION = re.compile(
    rb"\bmutation\b[^{]{0,2000}?\{[^{]{0,2000}?(enroll?|subscribe|checkout|payment|purchase|cart)",
    re.IGNORECASE,
)
# Parameters whose value says what a page does.
_ACTION_PARAMETERS = frozenset({"action", "do", "task", "edd_action", "wc-ajax"})
# Files that are pages or calls. Any other file is content, whatever its folders are called.
_PAGE_FILE = re.compile(r"\.(php\d?|aspx?|jspx?|html?|do|action|cgi|js|json)$", re.IGNORECASE)
_FILE = re.compile(r"\.[a-z][a-z0-9]{1,4}$", re.IGNORECASE)


def check_never_enrolls(method: str, url: str, body: bytes | None = None) -> None:
    """Check that the request neither enrolls the account nor buys anything.

    Raises Failure (AccessDenied) that names what was refused.
    """
    parts = urlsplit(url)
    method = method.upper()
    refused = None
    segments = [unquote(each).partition(";")[0] for each in parts.path.split("/") if each]
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    actions = [value for name, value in parameters if name.lower() in _ACTION_PARAMETERS]
    actions += [name for name, _ in parameters if name.lower().startswith("add")]
    if method not in _READING:
        refused = next((each for each in segments + actions if _WRITING.search(each)), None)
        if refused is None and body is not None and (found := _MUTATION.search(body)):
            refused = found[1].decode()
    elif not segments or _PAGE_FILE.search(segments[-1]) or not _FILE.search(segments[-1]):
        names = [_PAGE_FILE.sub("", each) for each in segments]
        refused = next((each for each in names + actions if _ACTION.fullmatch(each)), None)
        for before, name in zip(["", *names], names, strict=False):
            if _SALE.fullmatch(name) and not _COLLECTION.fullmatch(before):
                refused = refused or name
    if refused is not None:
        raise Failure(
            Reason.ACCESS_DENIED,
            f"the account is not enrolled: a {method} request for {refused[:60]!r} at "
            f"{parts.hostname} would enroll it or buy, so it was not sent",
        )
