"""A revoked certificate calls nothing, whatever else it may; the list is followed as it changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from cryptography import x509
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status
from structlog.testing import capture_logs

from evenflow.certificates import issue, make_authority, read_authority, revoke
from evenflow.revocations import pem_of, signed_list
from services.chassis.environ import address
from services.chassis.identity import TlsFiles, channel
from services.chassis.revocation import Revocations, UnreadableRevocations
from services.chassis.server import grpc_server
from tests.identities import Identities

WEB = "spiffe://evenflow.local/tenant/acme/web"


class Following:
    """A list in a file, and a clock that a test moves."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "crl.pem"
        self._authority = folder / "ca"
        make_authority(self._authority)
        self.publish()
        self._now_s = 0.0
        self.revocations = Revocations(self.file, clock=lambda: self._now_s)

    def certificate(self, name: str) -> bytes:
        issue(read_authority(self._authority), WEB, (), self._authority.parent / name)
        return (self._authority.parent / name / "cert.pem").read_bytes()

    def revoke(self, certificate: bytes) -> None:
        revoke(x509.load_pem_x509_certificate(certificate), self._authority)
        self.publish()

    def publish(self) -> None:
        self.write((self._authority / "crl.pem").read_bytes())

    def write(self, content: bytes) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(self.file)

    def a_second_later(self) -> Revocations:
        self._now_s += 1.0
        return self.revocations


@pytest.fixture
def following(tmp_path: Path) -> Following:
    return Following(tmp_path)


def test_who_is_put_on_the_list_is_revoked_within_a_second(following: Following) -> None:
    web, other = following.certificate("web"), following.certificate("other")
    assert not following.revocations.names(web)

    following.revoke(web)

    later = following.a_second_later()
    assert (later.names(web), later.names(other)) == (True, False)


def test_a_serial_alone_is_found_as_well(following: Following) -> None:
    web, other = (
        f"{x509.load_pem_x509_certificate(following.certificate(name)).serial_number:x}"
        for name in ("web", "other")
    )
    assert not following.revocations.has_serial(web)

    following.revoke((following.file.parent / "web" / "cert.pem").read_bytes())

    later = following.a_second_later()
    assert [later.has_serial(each) for each in (web, other, f"0{web.upper()}")] == [
        True,
        False,
        True,
    ]


def test_the_file_is_looked_at_no_more_than_twice_a_second(following: Following) -> None:
    web = following.certificate("web")
    following.revoke(web)

    assert not following.revocations.names(web)


@pytest.mark.parametrize("damaged", [b"", b"half a li", "cut"])
def test_a_list_that_got_unreadable_leaves_the_one_before(
    following: Following, damaged: bytes | str
) -> None:
    web = following.certificate("web")
    following.revoke(web)
    assert following.a_second_later().names(web)
    whole = following.file.read_bytes()

    following.write(whole[: len(whole) // 2] if isinstance(damaged, str) else damaged)

    with capture_logs() as logs:
        for _ in range(3):
            assert following.a_second_later().names(web)
    assert [each["event"] for each in logs] == ["revocations.unreadable"]


def test_without_a_file_nobody_is_revoked(following: Following) -> None:
    web = following.certificate("web")
    following.revoke(web)
    following.file.unlink()

    assert not following.a_second_later().names(web)
    assert not Revocations(following.file).names(web)


def test_the_lists_of_all_authorities_count(tmp_path: Path) -> None:
    old, new = Following(tmp_path / "old"), Following(tmp_path / "new")
    of_old, of_new = old.certificate("web"), new.certificate("web")
    old.revoke(of_old)
    new.revoke(of_new)

    new.write(old.file.read_bytes() + new.file.read_bytes())

    later = new.a_second_later()
    assert [later.names(each) for each in (of_old, of_new)] == [True, True]


def test_the_same_number_of_another_authority_is_another_certificate(
    following: Following, tmp_path: Path
) -> None:
    web = following.certificate("web")
    certificate = x509.load_pem_x509_certificate(web)
    authority = revoke(certificate, tmp_path / "ca")

    following.write(pem_of([signed_list(certificate, authority.key, authority.revoked)]))

    assert certificate.subject != certificate.issuer
    assert not following.a_second_later().names(web)


def test_a_list_that_has_ended_still_counts(following: Following, tmp_path: Path) -> None:
    web = following.certificate("web")
    authority = revoke(x509.load_pem_x509_certificate(web), tmp_path / "ca")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    ended = signed_list(authority.certificate, authority.key, authority.revoked, ends_at=yesterday)

    following.write(pem_of([ended]))

    assert following.a_second_later().names(web)


def test_a_server_does_not_start_with_what_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "crl.pem").write_bytes(b"")

    with pytest.raises(UnreadableRevocations, match=r"crl\.pem: expected one or more lists"):
        Revocations(tmp_path / "crl.pem")


@asynccontextmanager
async def serving(tls: TlsFiles) -> AsyncIterator[str]:
    """A server that has nothing but what every server has."""
    server = grpc_server(errors={}, callers={}, tls=tls, services=[])
    port = server.listen(address("127.0.0.1:0"), tls)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.grpc.stop(None)


async def refusal(calls: grpc.aio.Channel) -> tuple[grpc.StatusCode, str] | None:
    stub: Any = HealthStub(calls)
    try:
        await stub.Check(HealthCheckRequest(), timeout=5)
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(cast(grpc.Call, error))
        assert status is not None
        told = ErrorInfo()
        assert status.details[0].Unpack(told)
        return error.code(), told.reason
    return None


def test_a_revoked_certificate_is_refused_on_connections_old_and_new_others_are_not(
    tmp_path: Path,
) -> None:
    identities = Identities(tmp_path)
    tls = identities.service("runtime")
    bad, good = identities.service("router"), identities.service("policy")

    async def run() -> list[tuple[grpc.StatusCode, str] | None]:
        async with serving(tls) as where, channel(where, bad, server="runtime") as old:
            assert await refusal(old) is None
            identities.revoke(bad, told=tls)
            async with asyncio.timeout(5):
                while await refusal(old) is None:  # noqa: ASYNC110 - it can only be asked
                    await asyncio.sleep(0.05)
            async with (
                channel(where, bad, server="runtime") as new,
                channel(where, good, server="runtime") as other,
            ):
                return [await refusal(each) for each in (old, new, other)]

    refused = (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_REVOKED")
    assert asyncio.run(run()) == [refused, refused, None]
