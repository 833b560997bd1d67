import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from evenflow.certificates import issue, make_authority
from evenflow.revocations import pem_of, signed_list
from services.chassis.identity import TlsFiles
from services.router.core.snapshot import DataPlane, HostPort, Snapshot
from services.router.inbound.publishing import Publisher
from tests import virtual_time
from tests.unit.router.values import A, B, endpoints

PLANE = DataPlane("evenflow.local", HostPort("127.0.0.1", 1), HostPort("127.0.0.1", 2), b"")


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    tls = TlsFiles.in_folder(tmp_path)
    rotate(tls, b"first")
    return tls


def rotate(tls: TlsFiles, content: bytes) -> None:
    for file in (tls.certificate, tls.key, tls.authorities):
        replace_file(file, content)


def replace_file(file: Path, content: bytes) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(file)


def published_after(files: TlsFiles, *changes: Callable[[], None]) -> list[Snapshot]:
    """What is published while the files change, a change a second."""
    published: list[Snapshot] = []
    publisher = Publisher(published.append, PLANE, endpoints(A), files)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(publisher.follow_certificate())
            for change in changes:
                change()
                await asyncio.sleep(1.5)  # virtual: the publisher looks once a second
            following.cancel()

    virtual_time.run(scenario())
    return published


def test_endpoints_in_service_are_published(files: TlsFiles) -> None:
    published: list[Snapshot] = []
    known = endpoints(A, B)
    publisher = Publisher(published.append, PLANE, known, files)

    publisher.publish()
    known.lost(A)
    publisher.publish()

    assert [[str(each) for each in one.endpoints] for one in published] == [[A, B], [B]]


def test_a_rotated_certificate_is_published_once(files: TlsFiles) -> None:
    published = published_after(files, *(partial(rotate, files, each) for each in (b"2", b"3")))

    assert [each.tls.certificate for each in published] == [b"2", b"3"]


def test_files_that_are_gone_leave_the_certificate_before(files: TlsFiles) -> None:
    with capture_logs() as logs:
        published = published_after(files, files.key.unlink, partial(rotate, files, b"second"))

    assert [each.tls.certificate for each in published] == [b"second"]
    assert [each["event"] for each in logs] == ["certificate.unreadable", "certificate.rotated"]


def test_a_new_list_of_revoked_certificates_is_published_and_a_damaged_one_is_not(
    tmp_path: Path,
) -> None:
    authority = make_authority(tmp_path / "ca")
    issue(authority, "spiffe://evenflow.local/service/gateway", (), tmp_path / "gateway")
    tls = TlsFiles.in_folder(tmp_path / "gateway")
    changes = (b"half a li", pem_of([signed_list(authority.certificate, authority.key, number=2)]))

    published = published_after(
        tls, *(partial(replace_file, tls.revocations, each) for each in changes)
    )

    assert [each.tls.revocations for each in published] == [changes[1]]
