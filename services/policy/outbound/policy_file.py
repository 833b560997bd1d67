"""Reads the policy from its file, whole and unchanging or not at all."""

import asyncio
import gc
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.policy.core.reading import read_policy
from services.policy.core.tenants import Policy
from services.policy.outbound.yaml_text import MAX_BYTES, parse


class FileChanging(OSError):
    """Somebody wrote to the file while it was read; read it again."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Differs whenever the file was written or replaced."""

    modified_ns: int
    size_bytes: int
    inode: int


class PolicyFile:
    """A PolicySource."""

    def __init__(self, path: Path, trust_domain: str) -> None:
        self._path = path
        self._trust_domain = trust_domain
        self.content = b""  # of what was read last and could be used

    def stamp(self) -> Stamp | None:
        """None: there is no such file, or it can't be looked at."""
        try:
            return _stamp(self._path.stat())
        except OSError:
            return None

    async def load(self) -> Policy:
        """In a thread: 10,000 tenants take most of a second."""
        return await asyncio.to_thread(self.read)

    def read(self) -> Policy:
        """Reads and validates.

        Raises:
            InvalidPolicy: something in it is wrong; lists everything.
            OSError: it can't be read.
        """
        content = self._read()
        policy = policy_of(content, self._trust_domain)
        self.content = content
        return policy

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            before = _stamp(os.fstat(file.fileno()))
            content = file.read(MAX_BYTES + 1)
            if _stamp(os.fstat(file.fileno())) != before:
                raise FileChanging(f"{self._path} was written to while it was read")
        return content


def policy_of(content: bytes, trust_domain: str) -> Policy:
    """Raises InvalidPolicy."""
    version = hashlib.sha256(content).hexdigest()
    with _collector_paused():
        return read_policy(parse(content), trust_domain, version=version)


def _stamp(stat: os.stat_result) -> Stamp:
    return Stamp(stat.st_mtime_ns, stat.st_size, stat.st_ino)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Half a million new values and not a cycle among them: collecting doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
