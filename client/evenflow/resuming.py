"""One answer, over as many streams as it takes: what to ask next, and what its reader gets.

A stream that breaks after its first token is carried on by another runtime, if its class is to be:
from the prompt and the ids of the tokens that came. Nothing here does I/O; both clients do the same
with it.
"""

import time
from collections.abc import Callable, Sequence

from evenflow.errors import FailedCall, Progress, Refused, StreamLost, error_of
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.requests import Event

RESUMES = 2  # of one answer, for who doesn't say


class Answer:
    """`resumes`: how often it may be carried on. `deadline_s`: for all of it."""

    def __init__(
        self,
        request: pb.GenerateRequest,
        *,
        resumes: int,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request = request
        self._resumes = resumes
        self._clock = clock
        self._deadline_at_s = clock() + deadline_s
        self._progress = Progress()
        self._ids = list(request.resume.token_ids)
        self._resumable = False
        self._prompt_version = 0
        self._held: pb.Delta | None = None
        self._finished = False
        self._lost: StreamLost | None = None

    @property
    def broke(self) -> bool:
        """Whether the next request carries a stream on."""
        return self._lost is not None

    def request(self) -> pb.GenerateRequest:
        """To be sent next."""
        if not self.broke or not self._ids:
            return self._request
        again = pb.GenerateRequest()
        again.CopyFrom(self._request)
        again.resume.token_ids[:] = self._ids
        if again.WhichOneof("input") == "prompt":
            again.prompt.version = self._prompt_version  # its label may say another by now
        return again

    def remaining_s(self) -> float:
        return max(0.0, self._deadline_at_s - self._clock())

    def events(self, response: pb.GenerateResponse) -> Sequence[Event]:
        """What the reader gets of a response: one Started, whichever stream it is."""
        match response.WhichOneof("event"):
            case "started":
                return self._started(response.started)
            case "delta":
                return self._delta(response.delta)
        self._finished = True
        return [*self._let_out(), response.finished]

    def wait_s(self, call: FailedCall) -> float | None:
        """How long to wait before the next request. None: all has come.

        Raises what the reader gets if there is to be no other request.
        """
        error = error_of(call, self._progress)
        if not isinstance(error, StreamLost):
            known = error if self._lost is None or not isinstance(error, Refused) else self._lost
            raise known from _cause(call)
        if self._finished:
            return None
        self._lost = error
        wait_s = error.retry_after_s or 0.0
        if not self._resumable or not self._resumes or wait_s >= self.remaining_s():
            raise error from _cause(call)
        self._resumes -= 1
        self._held = None  # it comes again
        return wait_s

    def _started(self, started: pb.Started) -> Sequence[Event]:
        first = not self._progress.request_id
        self._progress.request_id = self._progress.request_id or started.request_id
        self._resumable = started.resumable
        self._prompt_version = started.prompt_version
        return [started] if first else []

    def _delta(self, delta: pb.Delta) -> Sequence[Event]:
        """One without ids is the last, and its tokens come again if `finished` doesn't.

        One that has another after it is of a runtime that can't say its tokens any more.
        """
        before = self._let_out()
        if before:
            self._resumable = False
        if self._resumable and not delta.token_ids and (delta.tokens or delta.text):
            self._held = delta
            return before
        self._ids += delta.token_ids
        return [*before, self._let(delta)]

    def _let_out(self) -> Sequence[pb.Delta]:
        held, self._held = self._held, None
        return [] if held is None else [self._let(held)]

    def _let(self, delta: pb.Delta) -> pb.Delta:
        self._progress.text += delta.text
        self._progress.tokens += delta.tokens
        return delta


def _cause(call: FailedCall) -> BaseException | None:
    """gRPC's own error: its trailers tell more."""
    return call if isinstance(call, BaseException) else None
