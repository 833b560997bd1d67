import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

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
        fresh = file.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(file)


def published_after(files: TlsFiles, *changes: bytes | None) -> list[bytes]:
    """Certificates published while the files change, a change a second; None removes one."""
    published: list[Snapshot] = []
    publisher = Publisher(published.append, PLANE, endpoints(A), files)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(publisher.follow_certificate())
            for change in changes:
                if change is None:
                    files.key.unlink()
                else:
                    rotate(files, change)
                await asyncio.sleep(1.5)  # virtual: the publisher looks once a second
            following.cancel()

    virtual_time.run(scenario())
    return [each.tls.certificate for each in published]


def test_endpoints_in_service_are_published(files: TlsFiles) -> None:
    published: list[Snapshot] = []
    known = endpoints(A, B)
    publisher = Publisher(published.append, PLANE, known, files)

    publisher.publish()
    known.lost(A)
    publisher.publish()

    assert [[str(each) for each in one.endpoints] for one in published] == [[A, B], [B]]


def test_a_rotated_certificate_is_published_once(files: TlsFiles) -> None:
    assert published_after(files, b"second", b"third") == [b"second", b"third"]


def test_files_that_are_gone_leave_the_certificate_before(files: TlsFiles) -> None:
    with capture_logs() as logs:
        published = published_after(files, None, b"second")

    assert published == [b"second"]
    assert [each["event"] for each in logs] == ["certificate.unreadable", "certificate.rotated"]
