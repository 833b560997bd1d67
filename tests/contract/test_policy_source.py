"""What every PolicySource must do. The fake and the file pass the same tests."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from services.policy.core.nodes import InvalidPolicy
from services.policy.outbound.policy_file import PolicyFile
from services.policy.outbound.reloading import PolicySource
from tests.fakes.policy_source import FakePolicySource
from tests.unit.policy.policies import ACME, DOMAIN, GLOBEX, policy


class Written:
    """A source, and how to change it."""

    def __init__(self, source: PolicySource, *changes: Callable[[], object]) -> None:
        self.source = source
        self.change, self.spoil, self.remove = changes


def in_memory(_: Path) -> Written:
    fake = FakePolicySource(policy("v1", "acme"))
    return Written(
        fake,
        lambda: fake.write(policy("v2", "acme", "globex")),
        lambda: fake.spoil("half a file"),
        fake.remove,
    )


def on_disk(folder: Path) -> Written:
    file = folder / "tenants.yaml"
    file.write_text(ACME)

    def replace(text: str) -> None:
        new = folder / "new"
        new.write_text(text)
        new.rename(file)

    return Written(
        PolicyFile(file, DOMAIN),
        lambda: replace(ACME + GLOBEX),
        lambda: replace(ACME[:-100]),
        file.unlink,
    )


@pytest.fixture(params=[in_memory, on_disk], ids=["fake", "file"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    made: Written = request.param(tmp_path)
    return made


def names(source: PolicySource) -> list[str]:
    return [tenant.id for tenant in asyncio.run(source.load()).tenants]


def test_gives_the_policy(written: Written) -> None:
    assert names(written.source) == ["acme"]


def test_a_change_changes_stamp_version_and_tenants(written: Written) -> None:
    stamp, version = written.source.stamp(), asyncio.run(written.source.load()).version

    written.change()

    assert written.source.stamp() not in (None, stamp)
    assert asyncio.run(written.source.load()).version != version
    assert names(written.source) == ["acme", "globex"]


def test_the_stamp_stands_still_while_nothing_changes(written: Written) -> None:
    assert written.source.stamp() == written.source.stamp()


def test_a_bad_policy_is_refused(written: Written) -> None:
    stamp = written.source.stamp()

    written.spoil()

    assert written.source.stamp() not in (None, stamp)
    with pytest.raises(InvalidPolicy):
        asyncio.run(written.source.load())


def test_a_missing_policy_has_no_stamp_and_cannot_be_loaded(written: Written) -> None:
    written.remove()

    assert written.source.stamp() is None
    with pytest.raises(OSError, match=r"(?i)no such file"):
        asyncio.run(written.source.load())
