"""An image as a folder of this machine. How it is built: tests/infra/test_image.py; the contract itself: tests/platform/test_image.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.errors import ConfigError
from infra.platform import Platform
from infra.waiting import Progress
from tests.doubles.releases import spec
from tests.platform.conftest import LocalStand


def test_another_flavour_is_another_image(platform: Platform) -> None:
    """With GPUs the engine is another one."""
    assert platform.image.resolve(spec(resources={"gpu": 1}), Progress(250)) != platform.image.resolve(spec(), Progress(250))


def test_a_deleted_image_is_absent_twice_over(stand: LocalStand, platform: Platform) -> None:
    """Deleting what is not there is no error."""
    release = stand.unfetched()

    platform.image.delete(release, Progress(250))
    platform.image.delete(release, Progress(250))

    assert platform.image.observe(release) is None


def test_an_image_of_another_lock_can_not_be_built_and_the_error_says_why(stand: LocalStand, platform: Platform) -> None:
    """A rollback to a release whose image is gone must not silently run in another one."""
    old = replace(stand.unfetched(), image="local:" + "f" * 16)

    assert platform.image.observe(old) is None
    with pytest.raises(ConfigError) as told:
        platform.image.apply(old, Progress(250))

    assert "can not be built again" in told.value.problem.what
