"""`image` on every platform, the light half: resolving, observing, deleting. What building does is tested with each platform's own image.

On a cluster nothing is built or removed and a reference by digest is always there, so what is said of that is so on `local` alone; the rest
of a cluster's images (tags, registries, which there are) is in tests/kubernetes/test_image.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.errors import ConfigError
from infra.platform import Platform
from infra.waiting import Progress
from tests.doubles.releases import spec
from tests.platform.conftest import LocalStand, Stand


def test_resolving_makes_nothing_and_always_says_the_same(stand: Stand, platform: Platform) -> None:
    """The digest is part of the release: it must not depend on the day or on who asks."""
    asked = stand.declared()
    before = sorted(stand.folder.rglob("*")), platform.inventory.find()

    assert platform.image.resolve(asked, Progress(250)) == stand.again().image.resolve(asked, Progress(250)) == stand.image
    assert (sorted(stand.folder.rglob("*")), platform.inventory.find()) == before


@pytest.mark.only("local")
def test_another_flavour_is_another_image(platform: Platform) -> None:
    """With GPUs the engine is another one."""
    assert platform.image.resolve(spec(resources={"gpu": 1}), Progress(250)) != platform.image.resolve(spec(), Progress(250))


def test_an_image_that_is_there_is_observed_and_not_built_again(stand: Stand, platform: Platform) -> None:
    """Apply answers at once and changes nothing."""
    release = stand.unfetched()

    seen = platform.image.observe(release)
    applied = platform.image.apply(release, Progress(250))

    assert seen == applied
    assert not applied.changed
    assert applied.data_version == stand.image


@pytest.mark.only("local")
def test_a_deleted_image_is_absent_twice_over(stand: LocalStand, platform: Platform) -> None:
    """Deleting what is not there is no error."""
    release = stand.unfetched()

    platform.image.delete(release, Progress(250))
    platform.image.delete(release, Progress(250))

    assert platform.image.observe(release) is None


@pytest.mark.only("local")
def test_an_image_of_another_lock_can_not_be_built_and_the_error_says_why(stand: LocalStand, platform: Platform) -> None:
    """A rollback to a release whose image is gone must not silently run in another one."""
    old = replace(stand.unfetched(), image="local:" + "f" * 16)

    assert platform.image.observe(old) is None
    with pytest.raises(ConfigError) as told:
        platform.image.apply(old, Progress(250))

    assert "can not be built again" in told.value.problem.what
