"""A request that enrolls or buys is refused by its method and address; one that reads is not."""

import pytest

from enrollgate.domain.enrollment import check_never_enrolls
from enrollgate.domain.reasons import Failure, Reason

SITE = "https://school.example"


@pytest.mark.parametrize(
    "path",
    [
        "/course/subscribe/?courseId=42",
        "/course/SUBSCRIBE/",
        "/course/%73ubscribe/",
        "/subscribe.php?id=1",
        "/cart/",
        "/en/cart;jsessionid=1",
        "/cart/add.js?id=7",
        "/cart/checkout/express/course/7/",
        "/payment/checkout/course/7/",
        "/payment/",
        "/courses/7/enroll",
        "/courses/7/enrol",
        "/enrol/index.php?id=5",
        "/enroll/7?et=free_trial",
        "/courses/7/enroll_now",
        "/self-enroll/7",
        "/shop/?add-to-cart=7",
        "/shop/?edd_action=add_to_cart&download_id=7",
        "/wp-admin/admin-ajax.php?action=enroll",
        "/checkout",
        "/offers/7/checkout",
        "/purchase?product_id=7",
        "/buy-now/7",
    ],
)
def test_reading_a_page_that_enrolls_or_sells_is_refused(path: str) -> None:
    for method in ("GET", "head", "POST"):
        with pytest.raises(Failure, match="is not enrolled") as refused:
            check_never_enrolls(method, SITE + path)
        assert refused.value.reason is Reason.ACCESS_DENIED
        assert "school.example" in refused.value.message


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/course/pottery/",
        "/course/subscribe-to-a-calendar/",
        "/courses/enrolled/7",
        "/courses/payments/lectures/2",
        "/learn/buy/",
        "/api-2.0/users/me/subscribed-courses/42/lectures/7?fields[lecture]=asset",
        "/api/enrollment/v1/enrollment/ada,course-1",
        "/users/me/subscriptions",
        "/join/login-popup/?next=/course/subscribe/",
        "/login?return_to=%2Fcheckout",
        "/videos/checkout/1.mp4",
        "/cart/lesson.m3u8?token=x",
        "/media/subscribe/segment-1.ts",
        "/files/enroll.pdf",
        "/lectures/how-to-checkout",
        "/feed?order=asc&add=1",
        "/courses/7?action=view",
    ],
)
def test_reading_what_the_account_has_is_allowed(path: str) -> None:
    check_never_enrolls("GET", SITE + path)


@pytest.mark.parametrize(
    "path",
    [
        "/api-2.0/users/me/subscribed-courses/",
        "/api/enrollment/v1/enrollment",
        "/change_enrollment",
        "/v1/orders",
        "/add_to_cart.json",
        "/api/subscription/subscribe",
        "/courses/7/purchase.mp4",
        "/graphql/checkoutCreate",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_writing_to_an_enrollment_or_an_order_is_refused(method: str, path: str) -> None:
    with pytest.raises(Failure, match=method):
        check_never_enrolls(method, SITE + path)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (b'{"query":"mutation EnrollMe { enrollInCourse(id: 7) { ok } }"}', True),
        (b'{"query":"mutation { a: cartAdd(id: 7) { ok } }"}', True),
        (b'{"query":"query Lecture { enrollment { lecture(id: 7) { url } } }"}', False),
        (b'{"query":"mutation { markAsWatched(id: 7) { ok } }"}', False),
        (b"x" * 1_000_000, False),
        (b"mutation" * 100_000, False),
    ],
)
def test_a_mutation_that_enrolls_is_refused(body: bytes, refused: bool) -> None:
    if refused:
        with pytest.raises(Failure, match="would enroll"):
            check_never_enrolls("POST", f"{SITE}/graphql", body)
    else:
        check_never_enrolls("POST", f"{SITE}/graphql", body)


def test_a_login_is_allowed() -> None:
    check_never_enrolls("POST", f"{SITE}/join/login-popup/", b"email=a&password=b")
    check_never_enrolls("POST", "https://www.youtube.com/youtubei/v1/player?key=x", b"{}")
