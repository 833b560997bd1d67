"""Keeps Envoy's picture of the mesh true: endpoints as they come and go, certificates as they
rotate."""

import asyncio
from collections.abc import Callable

import structlog

from services.chassis.identity import TlsFiles
from services.chassis.revocation import revoked_in
from services.router.core.endpoints import Endpoints
from services.router.core.snapshot import DataPlane, HostPort, Snapshot, TlsMaterial

_LOOK_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


class Publisher:
    """Reads the gateway's certificate on construction; OSError when it can't."""

    def __init__(
        self,
        publish: Callable[[Snapshot], None],
        plane: DataPlane,
        endpoints: Endpoints,
        files: TlsFiles,
    ) -> None:
        self._publish = publish
        self._plane = plane
        self._endpoints = endpoints
        self._files = files
        self._stamp = files.stamp()
        self._tls = _material(files)

    def publish(self) -> None:
        in_service = tuple(HostPort.parse(each) for each in self._endpoints.in_service())
        pools = {
            HostPort.parse(each.address): each.pool for each in self._endpoints.all() if each.pool
        }
        self._publish(Snapshot(self._plane, self._tls, in_service, pools))

    async def follow_certificate(self) -> None:
        """Publishes each new certificate; one that can't be read leaves the one before."""
        unreadable = False
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                self._look()
            except OSError as error:
                if not unreadable:
                    _log.warning("certificate.unreadable", problem=str(error))
                unreadable = True
            else:
                unreadable = False

    def _look(self) -> None:
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return
        self._tls = _material(self._files)
        self._stamp = stamp
        _log.info("certificate.rotated", certificate=str(self._files.certificate))
        self.publish()


def _material(files: TlsFiles) -> TlsMaterial:
    """Raises OSError, for a damaged list as well: an Envoy that starts with one serves nobody."""
    read = files.read()
    if read.revocations is not None:
        revoked_in(read.revocations)
    return TlsMaterial(read.certificate, read.key, read.authorities, read.revocations)
