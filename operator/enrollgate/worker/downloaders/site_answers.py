"""Tell from one answer of a site whether it asks for a login, checks for bots, or limits requests.

What goes in: a status, URLs, headers and the beginning of a body. What comes out: a Failure, or
None for an ordinary answer. Pure functions, since sites say the same thing in many ways.

There are two grades of evidence. `explain_answer` looks for what only such an answer has. Ordinary
pages also hold login forms and CAPTCHA widgets: `explain_page` counts those, and is asked only if
yt-dlp found nothing to download on the page.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import urljoin, urlsplit

from enrollgate.common.retry_after import retry_after
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import LoginRequired
from enrollgate.worker.identity import is_signed

# Bytes of a page that are looked at.
LOOKED_AT = 1 << 17
# Characters of an answer that are looked at for words.
_MAX_WORDS = 1 << 13

_LOGIN_SEGMENT = re.compile(
    r"(?:log[-_]?in|log[-_]?on|sign[-_]?in|wp-login|servicelogin|authenticate|sso|saml2?|adfs"
    r"|openid-connect|session_new)(?:\.[a-z]{2,5})?",
    re.IGNORECASE,
)
_LOGIN_HOST = re.compile(
    r"(?:log-?in|sign-?in|sso|auth|idp|cas|accounts?)\..+|(?:.+\.)?(?:okta|auth0|onelogin)\.com"
    r"|.+\.microsoftonline\.com",
    re.IGNORECASE,
)
_BOT_SEGMENT = re.compile(
    r"(?:validate)?captcha|recaptcha|hcaptcha|sorry|human-?verification|bot-?check|robot-?check"
    r"|are-?you-?(?:a-?)?human",
    re.IGNORECASE,
)
_BOT_HOST = re.compile(r"(?:.+\.)?(?:captcha-delivery|perfdrive)\.com", re.IGNORECASE)

# Pages are cut before they are searched, and each repetition has a bound: the time is linear.
_TITLE = re.compile(r"<title\b[^>]{0,200}>(.{0,300}?)</title", re.IGNORECASE | re.DOTALL)
_PASSWORD_FIELD = re.compile(
    r"<input\b[^>]{0,300}?\btype\s{0,9}=\s{0,9}[\"']?password", re.IGNORECASE
)
_LOGIN_FORM = re.compile(
    r"<form\b[^>]{0,300}?\b(?:action|id|name|class)\s{0,9}=\s{0,9}[\"'][^\"'>]{0,200}?"
    r"(?:log[-_]?in|sign[-_]?in|logon)",
    re.IGNORECASE,
)
_PAGE_REDIRECT = re.compile(
    r"<meta\b[^>]{0,200}?http-equiv\s{0,9}=\s{0,9}[\"']?refresh[^>]{0,200}?url\s{0,9}="
    r"\s{0,9}[\"']?([^\"'>\s]{1,2000})"
    r"|\blocation(?:\.href)?\s{0,9}=\s{0,9}[\"']([^\"'\s]{1,2000})[\"']"
    r"|\blocation\.(?:replace|assign)\(\s{0,9}[\"']([^\"'\s]{1,2000})[\"']",
    re.IGNORECASE,
)
_LOGIN_WORDS_OF_A_TITLE = (
    r"(?:please\s+)?(?:log\s?in|login|log\s?on|sign\s?in|member\s+login|anmelden|anmeldung"
    r"|einloggen|connexion|se connecter|identification|iniciar sesi[oó]n|inicia sesi[oó]n|entrar"
    r"|acceder"
    r"|accedi|inloggen|aanmelden|logga in|logg inn|log ind|kirjaudu|zaloguj(?: si[eę])?|logowanie"
    r"|p[rř]ihl[aá][sš]en[ií]|bejelentkez[eé]s|autentificare|giri[sş](?: yap)?|вход|войти|увійти"
    r"|đăng nhập|masuk|登录|登錄|登入|ログイン|로그인|เข้าสู่ระบบ|ورود|تسجيل الدخول|התחברות)"
)
_LOGIN_TITLE = re.compile(
    rf"\s*{_LOGIN_WORDS_OF_A_TITLE}(?:\s+to\b.*|\s+(?:required|page|form))?\s*(?:[|:·•»–—-].*)?"
    rf"|.*[|:·•»–—-]\s*{_LOGIN_WORDS_OF_A_TITLE}\s*",
    re.IGNORECASE | re.DOTALL,
)
_BOT_TITLE = re.compile(
    r"just a moment|attention required|are you (?:a |an )?(?:human|robot|bot)|robot check"
    r"|(?:human|bot) verification|verify (?:that )?you(?:'re| are) (?:a )?human|security check"
    r"|checking your browser|ddos[- ](?:guard|protection)|captcha|one more step"
    r"|pardon our interruption|access to this page has been denied|unusual traffic"
    r"|making sure you(?:'|&#39;|’)re not a bot|request unsuccessful|bot or not",
    re.IGNORECASE,
)
_CAPTCHA_WIDGET = re.compile(
    r"g-recaptcha|recaptcha/(?:api|enterprise)\.js|h-captcha|hcaptcha\.com/1/api\.js|cf-turnstile"
    r"|challenges\.cloudflare\.com/turnstile|arkoselabs\.com|geetest|friendlycaptcha|mtcaptcha",
    re.IGNORECASE,
)
# What only the pages of these walls contain; the sites behind them include other scripts of theirs
# in ordinary pages. Cloudflare, Imperva, DataDome, HUMAN (PerimeterX), AWS WAF, Akamai, Kasada,
# Sucuri, DDoS-Guard, Vercel, Anubis, Google.
_WALL_MARK = re.compile(
    r"_cf_chl_opt|cf-browser-verification|id=\"cf-challenge|attention required! \| cloudflare"
    r"|incapsula incident id|_incapsula_resource\?cwudnsai|captcha-delivery\.com/"
    r"|\bid=[\"']px-captcha|captcha\.px-c(?:dn|loud)\.net|window\.gokuprops|sec-if-cpt-container"
    r"|/_sec/cp_challenge/|\bbm-verify=|kpsdk|sucuri_cloudproxy_js|sucuri website firewall"
    r"|check\.ddos-guard\.net|vercel security checkpoint|anubis_challenge"
    r"|systems have detected unusual traffic",
    re.IGNORECASE,
)
_AKAMAI_DENIAL = re.compile(r"errors\.edgesuite\.net|Reference(?:&#32;|\s)(?:&#35;|#)")
_WALL_HEADERS = (
    ("cf-mitigated", "challenge"),
    ("x-amzn-waf-action", "captcha"),
    ("x-amzn-waf-action", "challenge"),
    ("x-vercel-mitigated", "challenge"),
)
# What a wall says to people; and characters of a page that says nothing but that.
_HUMAN_WORDS = re.compile(
    r"human|robot|\bbots?\b|captcha|unusual (?:traffic|activity)|automated|verif(?:y|ication)"
    r"|security check",
    re.IGNORECASE,
)
_SHORT_PAGE = 40
_LIMIT_WORDS = re.compile(
    r"rate.?limit|too many (?:requests|attempts|downloads)|request limit|slow down|throttl"
    r"|quota.{0,20}exceeded|exceeded.{0,40}(?:limit|quota)|limit.{0,20}exceeded|download limit"
    r"|temporarily (?:blocked|banned)|error code: 1015|try again (?:later|in \d)",
    re.IGNORECASE,
)
_LOGIN_WORDS = re.compile(
    r"authentication (?:credentials were not provided|(?:is )?required|failed)|unauthenticated"
    r"|not[ _](?:authenticated|logged[ _]in)|log[ _-]?in[ _](?:is[ _])?required"
    r"|(?:must|need to|have to|please) (?:be logged|log ?in|sign ?in)"
    r"|session.{0,20}(?:expired|invalid|not found)|(?:invalid|expired)[ _](?:session|token|jwt)"
    r"|(?:token|jwt|credentials)[ _](?:has |have |is |are )?(?:expired|invalid|not valid)",
    re.IGNORECASE,
)
# The same in what programs exchange, with capital letters and underscores taken apart. APIs send
# it with HTTP 200, too: the status is then in the body.
_LOGIN_CODES = re.compile(
    r"""["'<][a-z ]{0,20}(?:code|status|error)[a-z ]{0,10}["'>]\s{0,9}:?\s{0,9}["']?401\b"""
    r"|\bunauthori[sz]ed\b|\b(?:authentication|authorization|sign in) (?:is )?(?:required|needed)"
    r"|\b(?:need|needs|require|requires|no) (?:to )?(?:log ?in|login|sign ?in|authenti)"
    r"|\bnot (?:logged|signed) ?(?:in|on)\b|\b(?:login|session) (?:timeout|needed|expired)\b",
    re.IGNORECASE,
)
_NEW_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|[_-]")
# Where a program is sent to: `{"redirect": "/login"}`.
_REDIRECT_FIELD = re.compile(
    r"""["'][a-z_-]{0,20}(?:redirect|location|url|href)[a-z_-]{0,10}["']\s{0,9}:\s{0,9}"""
    r"""["']([^"'\s]{1,2000})["']""",
    re.IGNORECASE,
)
# Characters that people read on a page that says nothing but why it is there.
_BRIEF_PAGE = 500
_MAINTENANCE_WORDS = re.compile(
    r"\bmaintenance\b|\b(?:be|are) (?:right )?back (?:soon|shortly|later|online)\b"
    r"|\btemporarily (?:unavailable|down|offline|closed|out of service)\b"
    r"|\bservice (?:is )?(?:currently )?unavailable\b",
    re.IGNORECASE,
)
# What of a page nobody sees. What is not closed lasts to the end, so that the time is linear.
_INVISIBLE = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style|template)\b.*?(?:</\1|\Z)|</?[a-z!?][^>]*(?:>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_MEDIA_PATH = re.compile(
    r"\.(?:mp4|m4[asv]|webm|mkv|mp3|ts|m3u8|mpd|key|vtt|pdf|zip)", re.IGNORECASE
)
# Statuses with which walls, limits and login pages are sent: the WAF of AWS sends 202 and 405,
# Laravel 419, Twitter 420, Shopify 430, IIS 440, Apache's bandwidth limit 509.
_REFUSALS = frozenset({401, 403, 405, 419, 420, 429, 430, 440, 503, 509})
_LOGIN_STATUSES = frozenset({419, 440})
_LIMIT_STATUSES = frozenset({403, 420, 429, 430, 509})


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `headers` have lower-case names; `head` is the beginning of the body."""

    status: int
    # What was requested, and where redirects led.
    requested_url: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    head: bytes = b""

    @property
    def text(self) -> str:
        """Return the beginning of the body as text."""
        return self.head[:LOOKED_AT].decode(errors="replace")

    @property
    def is_html(self) -> bool:
        """Return whether the site calls it a web page."""
        return "html" in self.headers.get("content-type", "").lower()


def explain_answer(answer: Answer) -> Failure | None:
    """Return the Failure that an answer is for sure. None: nothing in it says so.

    A bot check comes before a limit, and a limit before a login: walls send 429, too.
    """
    text = answer.text
    if _is_wall(answer, text):
        return bot_check(answer.status)
    headers = answer.headers
    is_limit = answer.status in {429, *_LIMIT_STATUSES} - {403} or (
        answer.status == 403
        and (
            "retry-after" in headers
            or headers.get("x-ratelimit-remaining") == "0"
            or headers.get("ratelimit-remaining") == "0"
            or _LIMIT_WORDS.search(_visible(text)) is not None
        )
    )
    if is_limit:
        wait = retry_after(headers.get("retry-after"), headers.get("date"))
        message = f"the site asks to slow down (HTTP {answer.status})"
        return Failure(Reason.RATE_LIMITED, message, retry_after=wait)
    is_login = answer.status in _LOGIN_STATUSES
    if answer.is_html:
        is_login |= answer.status in (401, 403) and _PASSWORD_FIELD.search(text) is not None
    elif answer.status in (400, 401, 403) and not is_signed(answer.requested_url):
        # `token expired` about a signed URL is about its signature.
        is_login |= _LOGIN_WORDS.search(text[:_MAX_WORDS]) is not None
    if is_login:
        return login_required(f"HTTP {answer.status}")
    if answer.status >= 300 or not answer.is_html:
        return None
    if is_login_url(answer.url) and not is_login_url(answer.requested_url):
        return login_required("a redirect to its login page")
    is_page = _PASSWORD_FIELD.search(text) and _LOGIN_TITLE.fullmatch(_title(text))
    return login_required("its login page instead of the course") if is_page else None


def explain_page(answer: Answer) -> Failure | None:
    """Return why a page on which yt-dlp finds nothing has nothing. None: nobody knows."""
    text = answer.text
    has_form = _PASSWORD_FIELD.search(text) or _LOGIN_FORM.search(text)
    if has_form or _LOGIN_TITLE.fullmatch(_title(text)) or is_login_url(answer.url):
        return login_required("its login page instead of the course")
    redirects = [_PAGE_REDIRECT] if answer.is_html else [_PAGE_REDIRECT, _REDIRECT_FIELD]
    for found in (found for pattern in redirects for found in pattern.finditer(text)):
        target = urljoin(answer.url, next(filter(None, found.groups())).replace("\\/", "/"))
        if is_login_url(target):
            return login_required("a redirect to its login page")
    if _CAPTCHA_WIDGET.search(text) or _BOT_TITLE.search(_title(text)):
        return bot_check(answer.status)
    visible = _visible(text)
    said = visible if answer.is_html else _NEW_WORD.sub(" ", text[:_MAX_WORDS])
    is_brief = not answer.is_html or len(visible) < _BRIEF_PAGE
    if is_brief and (_LOGIN_WORDS.search(said) or _LOGIN_CODES.search(said)):
        return login_required("an answer that says so")
    if _MAINTENANCE_WORDS.search(visible):
        return Failure(Reason.SITE_ERROR, "the site is closed for a while, as its page says")
    return None


def is_login_url(url: str) -> bool:
    """Return whether a URL is a login page's, by a part of its path or by its host."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    segments = parts.path.split("/")
    return any(map(_LOGIN_SEGMENT.fullmatch, segments)) or bool(_LOGIN_HOST.fullmatch(host))


def login_required(how: str) -> LoginRequired:
    """Return the failure of an answer that asks for a login. `how` is what it is."""
    return LoginRequired(Reason.COOKIES_EXPIRED, f"the site asks for a login ({how})")


def bot_check(status: int) -> Failure:
    """Return the failure of a bot wall or a CAPTCHA page."""
    message = f"the site checks for bots and let nothing through (HTTP {status})"
    return Failure(Reason.BOT_CHECK, message)


def _title(text: str) -> str:
    found = _TITLE.search(text)
    return " ".join(found[1].split()) if found else ""


def _visible(text: str) -> str:
    """Return the beginning of what people read on a page, in one line."""
    return " ".join(unescape(_INVISIBLE.sub(" ", text)).split())[:_MAX_WORDS]


def _is_wall(answer: Answer, text: str) -> bool:
    headers = answer.headers
    if any(headers.get(name, "").lower() == value for name, value in _WALL_HEADERS):
        return True
    parts = urlsplit(answer.url)
    was_redirected = answer.url != answer.requested_url
    if _BOT_HOST.fullmatch(parts.hostname or "") or (
        was_redirected
        and answer.is_html
        and any(map(_BOT_SEGMENT.fullmatch, parts.path.split("/")))
    ):
        return True
    is_refusal = answer.status in _REFUSALS
    if not is_refusal and answer.status >= 300:
        return False
    if _WALL_MARK.search(text):
        return True
    has_widget = bool(_CAPTCHA_WIDGET.search(text))
    has_title = bool(_BOT_TITLE.search(_title(text)))
    if not is_refusal:
        return has_widget and has_title
    # Akamai refuses expired signatures of media with the same page.
    is_media = is_signed(answer.requested_url) or bool(_MEDIA_PATH.search(parts.path))
    is_denial = answer.status == 403 and not is_media and bool(_AKAMAI_DENIAL.search(text))
    # A newsletter's form may have such a widget, too, on a page that says something else.
    is_only_widget = has_widget and not _PASSWORD_FIELD.search(text)
    is_about_it = len(_visible(text)) < _SHORT_PAGE or _HUMAN_WORDS.search(_visible(text))
    return has_title or is_denial or (is_only_widget and bool(is_about_it))
