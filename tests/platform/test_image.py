"""`image` on every platform, the light half: resolving, observing, deleting. What building does is tested with each platform's own image."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.errors import ConfigError
from infra.platform import Platform
from infra.waiting import Progress
from tests.doubles.releases import spec
from tests.platform.conftest import LocalStand

pytestmark = pytest.mark.only("local")


def test_resolving_makes_nothing_and_always_says_the_same(stand: LocalStand, platform: Platform) -> None:
    """The digest is part of the release: it must not depend on the day or on who asks."""
    before = sorted(stand.folder.rglob("*"))

    assert platform.image.resolve(spec(), Progress(5)) == stand.again().image.resolve(spec(), Progress(5)) == stand.image
    assert sorted(stand.folder.rglob("*")) == before


def test_another_flavour_is_another_image(platform: Platform) -> None:
    """With GPUs the engine is another one."""
    assert platform.image.resolve(spec(resources={"gpu": 1}), Progress(5)) != platform.image.resolve(spec(), Progress(5))


def test_an_image_that_is_there_is_observed_and_not_built_again(stand: LocalStand, platform: Platform) -> None:
    """Apply answers at once and changes nothing."""
    release = stand.unfetched()

    seen = platform.image.observe(release)
    applied = platform.image.apply(release, Progress(5))

    assert seen == applied
    assert not applied.changed
    assert applied.data_version == stand.image


def test_a_deleted_image_is_absent_twice_over(stand: LocalStand, platform: Platform) -> None:
    """Deleting what is not there is no error."""
    release = stand.unfetched()

    platform.image.delete(release, Progress(5))
    platform.image.delete(release, Progress(5))

    assert platform.image.observe(release) is None


def test_an_image_of_another_lock_can_not_be_built_and_the_error_says_why(stand: LocalStand, platform: Platform) -> None:
    """A rollback to a release whose image is gone must not silently run in another one."""
    old = replace(stand.unfetched(), image="local:" + "f" * 16)

    assert platform.image.observe(old) is None
    with pytest.raises(ConfigError) as told:
        platform.image.apply(old, Progress(5))

    assert "can not be built again" in told.value.problem.what
