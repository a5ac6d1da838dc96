"""Ten pushes in a row under load: nobody notices."""

from __future__ import annotations

import pytest

from tests.scenarios.pushes import play


@pytest.mark.timeout(600)
def test_ten_pushes_in_a_row_under_load_lose_no_request() -> None:
    """Each answer is whole and comes from a release that was accepted; the last revision is live, each is rolled out at most once, and some may be skipped."""
    found = play(10)

    assert found.heard.failed == [] and found.heard.asked > 100
    assert set(found.heard.releases) <= set(found.accepted)
    assert found.live == found.pushed[-1]
    assert len(set(found.pushed)) == 10 and len(found.rolled_out) == len(set(found.rolled_out)) >= 4
    assert [revision for revision in found.pushed if revision in found.rolled_out] == found.rolled_out
