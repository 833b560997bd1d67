"""Which certificates are revoked: `crl.pem` beside a service's own, read again when it changes.

gRPC's Python servers know no such lists, so the chassis looks at each call. A list that has ended
still counts: nobody on it becomes good again. No file: nobody is revoked. That a list is signed is
not looked at: who can write this file can write the authorities beside it.
"""

import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import grpc
import structlog
from cryptography import x509

_LOOK_EVERY_S = 0.5
_PARSED = 1024  # certificates; a mesh has fewer peers, and one more is parsed in 10 us
_END = b"-----END X509 CRL-----"

_Identity = tuple[str, int]  # the issuer's name, and its number for the certificate

_log = structlog.get_logger(__name__)


class CertificateRevoked(PermissionError):
    """The caller's certificate is good no more; come back with another."""


class UnreadableRevocations(OSError):
    """The file holds something else than lists; put a list there, or remove it."""


class Revocations:
    """Reads `file` on construction; UnreadableRevocations when it can't. A list that gets
    unreadable later leaves the one before in force."""

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._stamp = _stamp(file)
        self._take(_read(file))
        self._look_at_s = clock() + _LOOK_EVERY_S

    def check(self, context: grpc.aio.ServicerContext) -> None:
        """Raises CertificateRevoked."""
        self._follow()
        if not self._revoked:
            return  # what most calls meet: nothing is asked of the connection
        for certificate in context.auth_context().get("x509_pem_cert", ()):
            if _identity(certificate) in self._revoked:
                raise CertificateRevoked(
                    f"the certificate with serial {_identity(certificate)[1]:x} is revoked"
                )

    def names(self, certificate: bytes) -> bool:
        """Whether this one, PEM, is revoked."""
        self._follow()
        return bool(self._revoked) and _identity(certificate) in self._revoked

    def has_serial(self, serial: str) -> bool:
        """Of any authority, in hexadecimal: for whom nothing else is told. Authorities number by
        chance, 64 bits and more, so no two certificates share one."""
        self._follow()
        return bool(self._revoked) and int(serial, 16) in self._serials

    def _follow(self) -> None:
        now_s = self._clock()
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + _LOOK_EVERY_S
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(_read(self._file))
        except OSError as error:
            _log.warning("revocations.unreadable", problem=str(error))
        else:
            _log.info("revocations.read", file=str(self._file), revoked=len(self._revoked))

    def _take(self, revoked: frozenset[_Identity]) -> None:
        self._revoked = revoked
        self._serials = frozenset(serial for _, serial in revoked)


def revoked_in(pem: bytes) -> frozenset[_Identity]:
    """Everyone on the lists of `pem`, one after the other.

    Raises:
        UnreadableRevocations: it holds no list, or more than lists.
    """
    *lists, rest = pem.split(_END)
    if not lists or rest.strip():
        raise UnreadableRevocations("expected one or more lists (PEM, X509 CRL)")
    try:
        return frozenset(
            (issued.issuer.rfc4514_string(), revoked.serial_number)
            for issued in (x509.load_pem_x509_crl(each + _END) for each in lists)
            for revoked in issued
        )
    except ValueError as error:
        raise UnreadableRevocations(f"a list is damaged: {error}") from error


def _read(file: Path) -> frozenset[_Identity]:
    try:
        return revoked_in(file.read_bytes())
    except FileNotFoundError:
        return frozenset()
    except UnreadableRevocations as error:
        raise UnreadableRevocations(f"{file}: {error}") from error


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - a path's own takes twice as long
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=_PARSED)
def _identity(certificate: bytes) -> _Identity:
    parsed = x509.load_pem_x509_certificate(certificate)
    return parsed.issuer.rfc4514_string(), parsed.serial_number
