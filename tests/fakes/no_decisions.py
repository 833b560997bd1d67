"""Where no decision is recorded."""

from collections.abc import Iterator

from services.policy.core.verdicts import RecordedDecision


class NoDecisions:
    """A Decisions."""

    def since(self, unix_s: float) -> Iterator[RecordedDecision]:
        return iter(())
