"""Puts the keys that policy has made into what routers are told of its file.

The file's part is encoded once; a copy of it takes 2 ms for 10,000 tenants, where encoding them
takes 55 ms.
"""

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from evenflow.policy.v1 import tenant_service_pb2 as pb
from services.policy.core.keys import Key, Keys, Secret


class FileSnapshot:
    """What routers would be told, were there no keys but the file's."""

    def __init__(self, encoded: pb.WatchTenantsResponse) -> None:
        self._encoded = encoded
        self._places = {each.id: place for place, each in enumerate(encoded.tenants)}

    @property
    def version(self) -> str:
        return self._encoded.version

    def has(self, tenant: str) -> bool:
        return tenant in self._places

    def joined(self, keys: Keys) -> pb.WatchTenantsResponse:
        """A message of its own. Keys of tenants that are not in the file are not in it."""
        if not keys.revision:
            return self._encoded
        joined = pb.WatchTenantsResponse()
        joined.CopyFrom(self._encoded)
        joined.version = f"{self.version}.{keys.revision}"
        for key in keys.all:
            place = self._places.get(key.tenant)
            if place is not None:
                joined.tenants[place].api_keys.extend(_encode(key))
        return joined


def _encode(key: Key) -> Iterable[pb.ApiKey]:
    """Those that have expired too: routers say so to whoever shows one."""
    yield _api_key(key, key.secret)
    if key.former is not None:
        yield _api_key(key, key.former)


def _api_key(key: Key, secret: Secret) -> pb.ApiKey:
    expires_at = None
    if secret.expires_unix_s is not None:
        expires_at = Timestamp()
        expires_at.FromMicroseconds(round(secret.expires_unix_s * 1e6))
    return pb.ApiKey(
        id=key.id, workload=key.workload, hmac_sha256=secret.hmac_sha256, expires_at=expires_at
    )
