"""Puts a servicer behind a real mTLS socket for as long as a test needs it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc

from services.chassis.identity import TlsFiles, server_credentials


@asynccontextmanager
async def served(register: Callable[[grpc.aio.Server], None], tls: TlsFiles) -> AsyncIterator[str]:
    """Yields the address, on a free port; `register` adds the servicers."""
    server = grpc.aio.server()
    register(server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(tls))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
