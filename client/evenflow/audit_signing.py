"""The audit log's checkpoints: a number and a hash, signed with Ed25519 (RFC 8032).

Needs the extra `cli`, for `cryptography`. What is signed is all of the line that stands before
`,"signature":`.
"""

import hashlib
import json
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from evenflow.audit_lines import time_text

CHECKPOINT_BEGINS = b'{"checkpoint":'
_SIGNATURE = b',"signature":"'
_PEM_ENDS = b"-----END PUBLIC KEY-----"


class InvalidKey(ValueError):
    """No Ed25519 key in PEM; the message says which file or what of it."""


class InvalidCheckpoint(ValueError):
    """Not signed by a key that is trusted, or no checkpoint at all."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    number: int  # of the entry
    hash: str  # of it
    time: str  # when it was signed


class Signer:
    """Raises InvalidKey. `pem`: a private key, PKCS #8, without a password."""

    def __init__(self, pem: bytes) -> None:
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidKey("must be a private key in PEM, without a password") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidKey("must be an Ed25519 key")
        self._key = key
        self.public = key.public_key()
        self.id = key_id(self.public)

    @property
    def public_pem(self) -> bytes:
        return self.public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def checkpoint_line(self, number: int, digest: str, unix_us: int) -> bytes:
        """Without a line end."""
        content = {
            "checkpoint": number,
            "hash": digest,
            "time": time_text(unix_us),
            "key": self.id,
        }
        signed = json.dumps(content, separators=(",", ":")).encode("ascii")[:-1]
        return signed + _SIGNATURE + b64encode(self._key.sign(signed)) + b'"}'


def new_key() -> bytes:
    """A private key, PEM."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_id(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def public_keys(pems: Iterable[bytes]) -> dict[str, Ed25519PublicKey]:
    """By id. Each text may hold several. Raises InvalidKey."""
    found = {}
    for pem in pems:
        for one in pem.split(_PEM_ENDS)[:-1]:
            try:
                key = serialization.load_pem_public_key(one + _PEM_ENDS + b"\n")
            except (ValueError, UnsupportedAlgorithm) as error:
                raise InvalidKey("must be a public key in PEM") from error
            if not isinstance(key, Ed25519PublicKey):
                raise InvalidKey("must be an Ed25519 key")
            found[key_id(key)] = key
    if not found:
        raise InvalidKey("there is no public key in it")
    return found


def checkpoint_number(line: bytes) -> int | None:
    """As the line says, signed or not. None: it is no checkpoint."""
    digits = line[len(CHECKPOINT_BEGINS) : len(CHECKPOINT_BEGINS) + 20].partition(b",")[0]
    return int(digits) if line.startswith(CHECKPOINT_BEGINS) and digits.isdigit() else None


def checked(line: bytes, keys: Mapping[str, Ed25519PublicKey]) -> Checkpoint:
    """Raises InvalidCheckpoint."""
    signed, found, rest = line.rpartition(_SIGNATURE)
    if not found or not rest.endswith(b'"}'):
        raise InvalidCheckpoint("it is no checkpoint")
    try:
        said = json.loads(signed + b"}")
        key = keys.get(said["key"])
        if key is None:
            raise InvalidCheckpoint("its key is none of those that are trusted")
        key.verify(b64decode(rest[:-2], validate=True), signed)
        return Checkpoint(int(said["checkpoint"]), str(said["hash"]), str(said["time"]))
    except InvalidSignature as error:
        raise InvalidCheckpoint("its signature is wrong") from error
    except (ValueError, KeyError, TypeError, NotBase64) as error:
        if isinstance(error, InvalidCheckpoint):
            raise
        raise InvalidCheckpoint("it is no checkpoint") from error
