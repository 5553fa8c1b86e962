"""An image that the real kubelet cannot pull: one task fails, and the others wait for the image."""

import uuid
from collections.abc import Callable

import pytest
from tests.faulty_site import FaultySite
from tests.node.faults import add_image
from tests.node.images import IMAGE
from tests.node.installation import RELEASE, Installation, job_template


@pytest.mark.slow_node
def test_tasks_wait_for_an_image_that_cannot_be_pulled_until_it_exists(
    install: Callable[..., Installation], site: FaultySite
) -> None:
    image = f"enrollgate.test/later:{uuid.uuid4().hex[:8]}"
    installation = install(
        maxConcurrentRuns=1,
        startTimeout="20s",
        holds={"pause": "2s", "longestPause": "5s"},
        **job_template(image=image),
    )
    for _ in range(3):
        installation.enroll(f"{site.url}/feed")

    installation.wait_for(lambda: installation.sql(_OPEN), "a hold is opened")
    ((scope, reason, message),) = installation.sql(_OPEN)
    assert (scope, reason) == ("installation", "ImagePullBackOff")
    assert image in message
    installation.wait_for(
        lambda: installation.statuses() == {1: "failed", 2: "enrolled", 3: "enrolled"},
        "only the first task has failed",
    )
    installation.wait_for(lambda: "held" in dict(installation.sql(_STATES)).values(), "tasks wait")
    held = next(task for task, state in installation.sql(_STATES) if state == "held")
    shown = installation.explain(held)
    assert "ImagePullBackOff" in shown and image in shown, shown
    events = installation.kubectl("describe", "deployment", RELEASE)
    assert "HoldOpened" in events, events

    add_image(IMAGE, image)

    installation.wait_for(
        lambda: installation.statuses() == {1: "failed", 2: "completed", 3: "completed"},
        "the others are completed",
    )
    installation.wait_for(lambda: not installation.sql(_OPEN), "the hold is closed")


_OPEN = "SELECT scope, reason, message FROM enrollgate_holds WHERE closed_at IS NULL"
_STATES = "SELECT task_id, state FROM enrollgate_task_status"
