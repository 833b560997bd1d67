"""How a request ended, as the gateway's access log tells it."""

from enum import Enum, IntEnum

from services.router.core.rungs import Degradation
from services.router.core.value import value


class Code(IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Cut(Enum):
    """Who cut a request short, where no status says how it ended."""

    NOBODY = "nobody"
    CALLER = "caller"
    DEADLINE = "deadline"
    RUNTIME = "runtime"  # it died or reset the stream
    NOWHERE = "nowhere"  # no runtime could be reached


@value
class Usage:
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int


@value
class Ended:
    request_id: str
    method: str
    tenant: str  # as a router told Envoy, maybe one before this; empty: none did
    began_unix_s: float
    duration_s: float
    first_token_s: float | None  # from the beginning; None: there was none
    endpoint: str  # host:port that answered; empty: none did
    grpc_code: int
    reason: str  # the runtime's own; empty: none
    usage: Usage | None  # None: the runtime never said
    model_version: str
    engine: str
    attempts: int  # sent to runtimes
    read_s: float = 0.0  # from the beginning to the end of the caller's message
    sent_s: float | None = None  # from the beginning to the attempt that answered, or the last
    echoed_attempt: int | None = None  # which attempt the runtime says it is; the first says none
    hedged: bool = False  # the second attempt was a hedge, and no retry
    answered_attempt: int = 0  # whose answer it is; 0: nobody answered
    degradations: tuple[Degradation, ...] = ()  # by which the answer is another

    @property
    def hedge_won(self) -> bool:
        return self.hedged and self.answered_attempt > 1


_OF_HTTP = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
_OF_CUT = {
    Cut.CALLER: Code.CANCELLED,
    Cut.DEADLINE: Code.DEADLINE_EXCEEDED,
    Cut.RUNTIME: Code.UNAVAILABLE,
    Cut.NOWHERE: Code.UNAVAILABLE,
}


def final_code(said: int | None, *, cut: Cut, http_status: int) -> int:
    """The gRPC code of a request: what was said, else who cut it, else its HTTP status.

    An OK of a stream that was cut afterwards is none.
    """
    if said is not None and (said != Code.OK or cut is Cut.NOBODY):
        return said
    if cut is not Cut.NOBODY:
        return _OF_CUT[cut]
    if 200 <= http_status < 300:
        return Code.OK
    if 400 <= http_status < 500:
        return _OF_HTTP.get(http_status, Code.INVALID_ARGUMENT)
    return _OF_HTTP.get(http_status, Code.UNKNOWN)
