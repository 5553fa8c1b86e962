"""What answers of sites mean: bodies in the shapes that public documentation and reports show."""

import pytest

from enrollgate.domain.reasons import Reason
from enrollgate.worker.course import LoginRequired
from enrollgate.worker.downloaders.site_answers import Answer, explain_answer, explain_page

COURSE = "https://school.example/courses/ceramics"
HTML = "text/html; charset=utf-8"
LOGIN_FORM = '<form action="/session"><input name=pw type="password"></form>'


def answer(
    status: int = 200, body: str = "", *, url: str = COURSE, asked: str = COURSE, **headers: str
) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, asked, url, {"content-type": HTML, **named}, body.encode())


def reason(found: object) -> Reason | None:
    return getattr(found, "reason", None)


WALLS = {
    # https://developers.cloudflare.com/cloudflare-challenges/challenge-types/challenge-pages/
    "cloudflare header": answer(403, "<title>Just a moment...</title>", cf_mitigated="challenge"),
    "cloudflare script": answer(503, "<script>window._cf_chl_opt={cvId:'3'}</script>"),
    "cloudflare, old": answer(503, "<title>Just a moment...</title><div class=cf-im-under-attack>"),
    "cloudflare block": answer(403, "<title>Attention Required! | Cloudflare</title>"),
    "akamai denial": answer(
        403,
        "<TITLE>Access Denied</TITLE>You don't have permission to access it on this server."
        "<P>Reference&#32;&#35;18&#46;4d0e&#46;1<P>https&#58;//errors.edgesuite.net/18.4d0e",
    ),
    "akamai challenge": answer(428 - 25, '<div id="sec-if-cpt-container"></div>'),
    "perimeterx": answer(
        403, '<title>Access to this page has been denied</title><div id="px-captcha"></div>'
    ),
    "perimeterx json": answer(
        403, '{"blockScript":"https://captcha.px-cdn.net/PX1/captcha.js"}', content_type="json"
    ),
    "datadome": answer(
        403, "<script>var dd={'rt':'c','host':'geo.captcha-delivery.com/'}</script>"
    ),
    "datadome json": answer(
        403, '{"url":"https://geo.captcha-delivery.com/captcha/?initialCid=A"}', content_type="json"
    ),
    "imperva": answer(
        200,
        '<iframe id="main-iframe" src="/_Incapsula_Resource?CWUDNSAI=9&xinfo=1">Request '
        "unsuccessful. Incapsula incident ID: 123-456</iframe>",
    ),
    "imperva, distil": answer(405, "<title>Pardon Our Interruption</title>"),
    "aws waf captcha": answer(405, x_amzn_waf_action="captcha"),
    "aws waf challenge": answer(202, x_amzn_waf_action="challenge"),
    "vercel": answer(429, "<title>Vercel Security Checkpoint</title>"),
    "kasada": answer(429, "<script>window.KPSDK={};KPSDK.now=1</script>"),
    "sucuri": answer(403, "<title>Sucuri WebSite Firewall - Access Denied</title>"),
    "anubis": answer(200, '<script id="anubis_challenge">{"difficulty":4}</script>'),
    "google": answer(429, "Our systems have detected unusual traffic from your computer network."),
    "recaptcha refusal": answer(403, '<div class="g-recaptcha" data-sitekey="k"></div>'),
    "hcaptcha page": answer(
        200, '<title>Are you a robot?</title><div class="h-captcha" data-sitekey="k"></div>'
    ),
    "redirect to captcha": answer(200, "<p>Type it", url="https://school.example/captcha?b=1"),
    "radware": answer(200, "<p>wait", url="https://validate.perfdrive.com/?ssa=1"),
}


@pytest.mark.parametrize("wall", WALLS.values(), ids=WALLS.keys())
def test_a_bot_wall_in_any_shape_is_a_bot_check(wall: Answer) -> None:
    assert reason(explain_answer(wall)) is Reason.BOT_CHECK


LOGINS = {
    "redirect": answer(body=LOGIN_FORM, url="https://school.example/join/login?next=/courses"),
    "redirect, no form yet": answer(body="<div id=app>", url="https://school.example/signin"),
    "single sign-on": answer(body="<p>", url="https://login.microsoftonline.com/x/oauth2"),
    "own sign-on host": answer(body="<p>", url="https://sso.school.example/realms/x"),
    "wordpress": answer(body="<p>", url="https://school.example/wp-login.php?redirect_to=x"),
    "login page": answer(body=f"<title>Log in | Ceramics School</title>{LOGIN_FORM}"),
    "title last": answer(body=f"<title>Ceramics School - Sign in</title>{LOGIN_FORM}"),
    "vietnamese": answer(body=f"<title>Đăng nhập</title>{LOGIN_FORM}"),
    "refused with a form": answer(403, f"<h1>403</h1>{LOGIN_FORM}"),
    "django rest": answer(
        403,
        '{"detail":"Authentication credentials were not provided."}',
        content_type="application/json",
    ),
    "django rest 401": answer(
        401,
        '{"detail":"Authentication credentials were not provided."}',
        content_type="application/json",
    ),
    "laravel": answer(401, '{"message":"Unauthenticated."}', content_type="application/json"),
    "laravel page expired": answer(419, "<title>Page Expired</title>"),
    "token": answer(403, '{"error":"token expired"}', content_type="application/json"),
}


@pytest.mark.parametrize("login", LOGINS.values(), ids=LOGINS.keys())
def test_a_login_in_any_shape_is_required(login: Answer) -> None:
    found = explain_answer(login)
    assert isinstance(found, LoginRequired) and found.reason is Reason.COOKIES_EXPIRED


LIMITS = {
    "429": answer(429, "slow"),
    "429 of a page": answer(429, "<title>429 Too Many Requests</title>"),
    "retry-after": answer(403, "no", retry_after="120"),
    "remaining": answer(403, "no", x_ratelimit_remaining="0"),
    "words": answer(403, "<h1>Rate limit exceeded</h1>"),
    "json": answer(403, '{"error":"too many requests"}', content_type="application/json"),
    "cloudflare 1015": answer(429, "error code: 1015"),
    "apache bandwidth": answer(509, "<title>509 Bandwidth Limit Exceeded</title>"),
}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS.keys())
def test_a_limit_in_any_shape_is_rate_limited(limit: Answer) -> None:
    assert reason(explain_answer(limit)) is Reason.RATE_LIMITED


ORDINARY = {
    "course": answer(body="<title>Ceramics</title><video src=1.mp4>"),
    "course with a login menu": answer(body=f"<title>Ceramics</title>{LOGIN_FORM}<video src=1>"),
    "course about logins": answer(body=f"<title>Login page design</title>{LOGIN_FORM}"),
    "contact form": answer(body='<title>Ceramics</title><div class="g-recaptcha"></div>'),
    "watched by cloudflare": answer(body="<script src=/cdn-cgi/challenge-platform/jsd/main.js>"),
    "watched by imperva": answer(body="<script src=/_Incapsula_Resource?SWJIYLWA=719>"),
    "watched by perimeterx": answer(body="<script>window._pxAppId='PX1'</script>"),
    "plain refusal": answer(403, "<h1>403 Forbidden</h1>"),
    "not found": answer(404, f"<h1>404</h1>{LOGIN_FORM}"),
    "busy": answer(503, "<h1>Service Unavailable</h1>"),
    "expired signature of media": answer(
        403,
        "<TITLE>Access Denied</TITLE>https&#58;//errors.edgesuite.net/18.4d0e",
        asked="https://cdn.example/1.mp4?Expires=1&Signature=a",
        url="https://cdn.example/1.mp4?Expires=1&Signature=a",
    ),
    "media on a host named auth": answer(url="https://auth.cdn.example/1.mp4", content_type="a/b"),
}


@pytest.mark.parametrize("ordinary", ORDINARY.values(), ids=ORDINARY.keys())
def test_an_ordinary_answer_means_nothing_special(ordinary: Answer) -> None:
    assert explain_answer(ordinary) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (LOGIN_FORM, Reason.COOKIES_EXPIRED),
        ('<form id="login-form"><input type=email></form>', Reason.COOKIES_EXPIRED),
        ("<title>Anmelden</title><input type=email>", Reason.COOKIES_EXPIRED),
        ('<meta http-equiv="refresh" content="0; url=/users/sign_in">', Reason.COOKIES_EXPIRED),
        ("<script>window.location.href = '/login?next=%2F'</script>", Reason.COOKIES_EXPIRED),
        (
            '<script>location.replace("https://sso.school.example/")</script>',
            Reason.COOKIES_EXPIRED,
        ),
        ('<div class="cf-turnstile" data-sitekey="k"></div>', Reason.BOT_CHECK),
        ("<title>Security check</title>", Reason.BOT_CHECK),
        ("<title>Ceramics</title><p>Soon!", None),
        ("<title>Down for maintenance</title>", Reason.SITE_ERROR),
        ("<p>We&#8217;ll be <b>back</b> soon!", Reason.SITE_ERROR),
        ("<p>The school is temporarily unavailable.", Reason.SITE_ERROR),
        ("<script>let maintenance = 'temporarily unavailable'</script>Pots", None),
    ],
)
def test_a_page_with_nothing_on_it_is_explained_by_what_it_asks(
    body: str, expected: Reason | None
) -> None:
    assert reason(explain_page(answer(body=body))) is expected


@pytest.mark.parametrize(
    "part",
    ["<input ", "<form ", "<title>", "location=", "<meta refresh ", "<script ", "<!--", "</script"],
)
def test_a_hostile_page_is_looked_at_in_bounded_time(part: str) -> None:
    """Each repetition of a pattern has a bound, so that the time is linear."""
    page = answer(body=part * (300_000 // len(part)))
    assert explain_answer(page) is None
    explain_page(page)


@pytest.mark.parametrize(
    "page",
    [
        '<script src="/js/jquery.throttle-debounce.js"></script><h1>No access to this lecture</h1>',
        "<h1>You have no access to this lecture</h1><p>Ask your teacher for it, or go back to the "
        'course.</p><footer><form>Our newsletter <div class="g-recaptcha"></div></form></footer>',
    ],
)
def test_a_refused_lecture_is_no_wall_and_no_limit(page: str) -> None:
    url = "https://courses.example/lecture/1"
    head = f"<html><title>Courses</title>{page}</html>".encode()
    assert explain_answer(Answer(403, url, url, {"content-type": "text/html"}, head)) is None
