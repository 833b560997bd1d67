"""What keeps tenants apart in every cache: a keyed digest of who asks, inside which boundary.

The key is the mesh's own, so that nobody outside can compute another tenant's salt. It has epochs:
the last one of its file is in force, and a new one is an empty cache for everybody.
"""

import hmac
import re
from dataclasses import dataclass, field

from services.router.core.demands import WorkloadClass
from services.router.core.tenants import Caller

LEAST_BYTES = 16
_MOST_KNOWN = 20_000  # beyond it all are worked out again, a microsecond each
_EPOCH = re.compile(rb"([0-9]{1,9}):([0-9a-fA-F]{64})")
_EPOCH_EXPECTED = "must be <epoch>:<64 hexadecimal digits>"


class InvalidSalts(ValueError):
    """The secrets can't be used; keep those before."""


@dataclass(frozen=True, slots=True)
class SaltSecret:
    secret: bytes = field(repr=False)
    epoch: int = 0

    def __post_init__(self) -> None:
        if len(self.secret) < LEAST_BYTES:
            raise InvalidSalts(
                f"the salt secret must have at least {LEAST_BYTES} bytes, got {len(self.secret)}"
            )


def secret_in_force(content: bytes) -> SaltSecret:
    """The last line's; epochs must rise from line to line. Raises InvalidSalts.

    A first line without an epoch is a secret as it stands, of epoch 0.
    """
    lines = [(number, each.strip()) for number, each in enumerate(content.splitlines(), start=1)]
    (number, first), *later = [each for each in lines if each[1]] or [(1, b"")]
    in_force = _epoch(first, number) if re.match(rb"[0-9]+:", first) else SaltSecret(first)
    for number, each in later:
        following = _epoch(each, number)
        if following.epoch <= in_force.epoch:
            raise InvalidSalts(f"line {number}: epoch {following.epoch} is not above those before")
        in_force = following
    return in_force


def _epoch(text: bytes, number: int) -> SaltSecret:
    """Whole or not at all: a line that is still being written has fewer digits."""
    match = _EPOCH.fullmatch(text)
    if match is None:
        raise InvalidSalts(f"line {number}: {_EPOCH_EXPECTED}")
    return SaltSecret(bytes.fromhex(match[2].decode()), int(match[1]))


class CacheSalts:
    """A request has the salt that was in force when it was let go, and keeps it."""

    def __init__(self, in_force: SaltSecret) -> None:
        self._in_force = in_force
        self._known: dict[tuple[str, ...], str] = {}

    @property
    def epoch(self) -> int:
        return self._in_force.epoch

    def replaced(self, in_force: SaltSecret) -> bool:
        """False: it is the one that was in force."""
        if in_force == self._in_force:
            return False
        self._in_force = in_force
        self._known = {}
        return True

    def of(self, caller: Caller, workload_class: WorkloadClass) -> str:
        """64 hexadecimal digits.

        A tenant has one in each pool. What it asks for as high-risk has another, one for each
        workload, so that none of its other programs can find out what was asked there.
        """
        tenant = caller.tenant
        whose: tuple[str, ...] = (tenant.id, tenant.pool_for(workload_class))
        if workload_class is WorkloadClass.HIGH_RISK:
            whose = (*whose, caller.workload, workload_class.value)
        return self._known.get(whose) or self._new(whose)

    def _new(self, whose: tuple[str, ...]) -> str:
        if len(self._known) >= _MOST_KNOWN:
            self._known = {}
        # No name holds a NUL, so no two of them make the same text.
        text = "\0".join((str(self.epoch), *whose))
        salt = hmac.digest(self._in_force.secret, text.encode(), "sha256").hex()
        self._known[whose] = salt
        return salt
