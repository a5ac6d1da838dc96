"""`image` on every platform, the light half: resolving and observing.

What building and deleting do is tested with each platform's own images: tests/infra/test_image.py, tests/infra/local/test_image.py; a cluster's
(tags, registries, which there are) in tests/kubernetes/test_image.py, where nothing is ever built or removed.
"""

from __future__ import annotations

from infra.platform import Platform
from infra.waiting import Progress
from tests.platform.conftest import Stand


def test_resolving_makes_nothing_and_always_says_the_same(stand: Stand, platform: Platform) -> None:
    """The digest is part of the release: it must not depend on the day or on who asks."""
    asked = stand.declared()
    before = sorted(stand.folder.rglob("*")), platform.inventory.find()

    assert platform.image.resolve(asked, Progress(250)) == stand.again().image.resolve(asked, Progress(250)) == stand.image
    assert (sorted(stand.folder.rglob("*")), platform.inventory.find()) == before


def test_an_image_that_is_there_is_observed_and_not_built_again(stand: Stand, platform: Platform) -> None:
    """Apply answers at once and changes nothing."""
    release = stand.unfetched()

    seen = platform.image.observe(release)
    applied = platform.image.apply(release, Progress(250))

    assert seen == applied
    assert not applied.changed
    assert applied.data_version == stand.image
