"""A policy in memory that changes, breaks and vanishes as the test tells it."""

from services.policy.core.nodes import InvalidPolicy, Problem
from services.policy.core.tenants import Policy
from services.policy.outbound.policy_file import Stamp


class FakePolicySource:
    """`write` and `spoil` change the stamp; a write that is `under way` changes it on each look."""

    def __init__(self, policy: Policy) -> None:
        self._outcome: Policy | Exception = policy
        self._stamp: Stamp | None = Stamp(0, 0, 0)
        self.under_way = False
        self.loads = 0

    def write(self, policy: Policy) -> None:
        self._outcome = policy
        self._touch()

    def spoil(self, message: str) -> None:
        self._outcome = InvalidPolicy([Problem(1, 1, "", message)])
        self._touch()

    def remove(self) -> None:
        self._outcome = FileNotFoundError("there is no such file")
        self._stamp = None

    def stamp(self) -> Stamp | None:
        if self.under_way:
            self._touch()
        return self._stamp

    async def load(self) -> Policy:
        self.loads += 1
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def _touch(self) -> None:
        before = self._stamp or Stamp(0, 0, 0)
        self._stamp = Stamp(before.modified_ns + 1, before.size_bytes, before.inode)
