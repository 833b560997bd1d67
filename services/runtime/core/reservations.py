"""What a router has set aside for a request, and how much of it an attempt uses.

An account is one budget in one of its windows. Each attempt at the request has its own part: what
it uses of a hard account is never above that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MOST_UNITS = 10**16  # that the ledger takes of one attempt; far above any budget


class AttemptNotCovered(Exception):
    """Nothing is set aside for this attempt any more; only a new request gets more."""


class EstimateTooLow(Exception):
    """The prompt alone takes all that is set aside; come back, it is estimated better now."""

    retry_after_s = 0.0


class ReservationSpent(Exception):
    """All that was set aside is written; what came until then stands."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    cached_prompt_tokens: int  # of these, found in the prefix cache
    output_tokens: int


NOTHING = Usage(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Account:
    """One budget that counts the request. Rates are whole units for a token."""

    budget: str  # "<tenant>/<id of the budget>"
    window_start_unix_s: int  # 0: the window is the total
    reserved: int  # units, for each attempt
    prompt_rate: int
    cached_prompt_rate: int
    output_rate: int
    hard: bool

    def cost(self, usage: Usage) -> int:
        cached = min(usage.cached_prompt_tokens, usage.prompt_tokens)
        units = (
            (usage.prompt_tokens - cached) * self.prompt_rate
            + cached * self.cached_prompt_rate
            + usage.output_tokens * self.output_rate
        )
        return min(units, MOST_UNITS)

    def output_tokens(self, prompt_tokens: int) -> int | None:
        """The most that is covered behind this prompt, none of it cached. None: any number."""
        left = self.reserved - prompt_tokens * max(self.prompt_rate, self.cached_prompt_rate)
        if left < 0:
            return 0
        return left // self.output_rate if self.output_rate else None


@dataclass(frozen=True, slots=True)
class Reservation:
    name: str  # names the request for good
    covered: int  # attempts that something is set aside for
    accounts: Sequence[Account]

    @property
    def hard(self) -> bool:
        return any(each.hard for each in self.accounts)

    def check(self, attempt: int) -> None:
        """Raises AttemptNotCovered. `attempt`: from 1."""
        if not 1 <= attempt <= self.covered:
            message = f"attempt {attempt} of a request that is paid for {self.covered}"
            raise AttemptNotCovered(message)

    def output_tokens(self, prompt_tokens: int) -> int | None:
        """The most that an attempt may write, at least 1. None: any number.

        Raises EstimateTooLow.
        """
        bounds = [each.output_tokens(prompt_tokens) for each in self.accounts if each.hard]
        most = min((bound for bound in bounds if bound is not None), default=None)
        if most == 0:
            message = f"the prompt has {prompt_tokens} tokens, more than were set aside for it"
            raise EstimateTooLow(message)
        return most
