"""What one attempt spends of its reservation: bounded, and written down before and after.

A request that no budget counts passes through and costs nothing.
"""

from dataclasses import replace

import grpc

from services.runtime.core.engine import Engine, FinishReason, Job, Step
from services.runtime.core.journal import ChargedAttempt, Entry, Journal
from services.runtime.core.reservations import NOTHING, ReservationSpent, Usage
from services.runtime.inbound.reports import Report


class Spending:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._reservation = report.owner.reservation
        self._entry: Entry | None = None
        self._capped = False
        self._refused = False
        self._spent = False

    def enter(self, journal: Journal, engine: Engine, context: grpc.aio.ServicerContext) -> None:
        """Raises AttemptNotCovered, LedgerUnreachable, JournalUnwritable."""
        if self._reservation is None:
            return
        owner = self._report.owner
        self._reservation.check(owner.attempt)
        self._entry = journal.enter(
            ChargedAttempt(
                reservation=self._reservation,
                number=owner.attempt,
                request_id=owner.request_id,
                tenant=owner.tenant,
                workload=owner.workload,
                model=engine.model,
                model_version=engine.version,
            )
        )
        # Whose caller has gone may be closed later, or never: nobody pulls its steps any more.
        context.add_done_callback(lambda _: self.end())  # type: ignore[arg-type] # its stub takes no function

    def begin(self, job: Job) -> Job:
        """The job, cut to what is set aside for it; written down.

        Raises EstimateTooLow, AttemptNotCovered, JournalUnwritable.
        """
        if self._entry is None or self._reservation is None:
            return job
        prompt_tokens = len(job.prompt)
        most = self._reservation.output_tokens(prompt_tokens)
        self._entry.begin(prompt_tokens)
        if most is None or most >= job.max_output_tokens:
            return job
        self._capped = True
        return replace(job, max_output_tokens=most)

    def last(self, step: Step) -> Step:
        """Instead of the engine's last step. Where it was our cap that ended the answer, nothing
        finishes here: `check` says so once the step is told."""
        if not self._capped or step.finish_reason is not FinishReason.LENGTH:
            return step
        self._spent = True
        return replace(step, finish_reason=None, ids=None)  # all that was held back may go

    def check(self) -> None:
        """Raises ReservationSpent."""
        if self._spent:
            raise ReservationSpent("all that was set aside for this request is written")

    def refused(self) -> None:
        """By the engine, which has not worked for it then."""
        self._refused = not self._report.has_begun

    def end(self) -> None:
        """Before anybody is told of it. However it ends, and as often as one likes."""
        if self._entry is None:
            return
        entry, self._entry = self._entry, None
        report = self._report
        used = Usage(report.prompt_tokens, report.cached_tokens, report.output_tokens)
        entry.end(NOTHING if self._refused else used)
