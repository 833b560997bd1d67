"""Secrets that services share: a file that holds 32 random bytes or more, in hexadecimal."""

from pathlib import Path

LEAST_BYTES = 32


class InvalidSecret(ValueError):
    """The file can't be read, or holds something else, or too little. Never quotes it."""


def read_secret(file: Path) -> bytes:
    """Raises InvalidSecret."""
    try:
        text = file.read_bytes().strip().decode("ascii")
        secret = bytes.fromhex(text)
    except OSError as error:
        raise InvalidSecret(f"can't read {file}: {error.strerror}") from error
    except ValueError:  # its message may quote the secret
        raise InvalidSecret(f"{file} must hold hexadecimal digits and nothing else") from None
    if len(secret) < LEAST_BYTES:
        raise InvalidSecret(f"{file} must hold at least {2 * LEAST_BYTES} hexadecimal digits")
    return secret
