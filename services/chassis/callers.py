"""Which service may call which RPC, by the SPIFFE ID of its certificate. Denied by default.

Nobody may call anything with a certificate that is revoked.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc

from services.chassis.identity import peer_id
from services.chassis.revocation import Revocations

AllowedCallers = Mapping[str, frozenset[str]]
"""`/package.Service/` or `/package.Service/Method` to service names; the longer key decides."""

_OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")


class CallerNotAllowed(PermissionError):
    """The caller's certificate does not allow this RPC; no other certificate of its will."""


class Callers:
    """Health and reflection are open to everyone else whom the server's TLS lets in."""

    def __init__(
        self, trust_domain: str, allowed: AllowedCallers, revocations: Revocations
    ) -> None:
        self._trust_domain = trust_domain
        self._allowed = allowed
        self._revocations = revocations

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        self._revocations.check(context)
        if not method.startswith(_OPEN):
            self._check(method, context)
        yield

    def _check(self, method: str, context: grpc.aio.ServicerContext) -> None:
        caller = peer_id(context)
        service = method[: method.rfind("/") + 1]
        allowed = self._allowed.get(method) or self._allowed.get(service) or frozenset()
        known = caller is not None and caller.trust_domain == self._trust_domain
        if not known or caller is None or caller.service not in allowed:
            raise CallerNotAllowed(
                f"{caller or 'a caller without a SPIFFE ID'} may not call {method}"
            )
