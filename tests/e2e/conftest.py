"""What several end-to-end tests share."""

from collections.abc import Iterator

import pytest
from examples.demo.site import CourseSite
from tests.e2e.operator_process import course_site


@pytest.fixture
def site() -> Iterator[CourseSite]:
    """Serve the demo's courses so slowly that a run is live for many seconds."""
    with course_site(throttle=10_000) as running:
        yield running
