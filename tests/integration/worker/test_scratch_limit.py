"""Real courses never take more room in scratch than its limit."""

from pathlib import Path

import pytest
from tests.disk_peak import DiskPeak
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture
from tests.orders import order_for, run


@pytest.mark.parametrize("threads", [1, 3])
def test_scratch_on_the_disk_never_exceeds_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    limit = 3_000_000
    peak = DiskPeak(tmp_path / "scratch", monkeypatch)
    with FaultySite([Lecture(f"L{n}", lecture(2_000_000, n)) for n in range(1, 6)]) as site:
        order = order_for(site, tmp_path, scratch_limit=limit, downloads=threads, uploads=threads)
        report = run(order)
    assert report.reason is None, report
    assert 2_000_000 <= peak.most <= limit, f"peak {peak.most:,}, limit {limit:,}"


def test_partial_files_of_failed_items_count_too(tmp_path: Path) -> None:
    limit = 1_000_000
    with FaultySite([Lecture(f"L{n}", lecture(600_000, n)) for n in range(1, 5)]) as site:
        site.faults |= {f"/{n}.mp4": Fault(claim_more=1000) for n in range(1, 5)}
        report = run(order_for(site, tmp_path, scratch_limit=limit))
    assert report.items_failed == 4, report
    total = sum(path.stat().st_size for path in (tmp_path / "scratch").rglob("*") if path.is_file())
    assert 0 < total <= limit, f"{total:,} bytes of partial files lie in a scratch of {limit:,}"
