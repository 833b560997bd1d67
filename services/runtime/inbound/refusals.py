"""The runtime's errors as statuses, and the names that callers know their fields by."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import grpc

from services.chassis.revocation import CertificateRevoked
from services.chassis.status import ErrorTable, Status
from services.runtime.core.engine import ContextTooLong, EngineFailed, InvalidInput
from services.runtime.core.journal import JournalUnwritable, LedgerUnreachable
from services.runtime.core.limits import ContextLimit, OutputLimit
from services.runtime.core.reservations import (
    AttemptNotCovered,
    EstimateTooLow,
    ReservationSpent,
)
from services.runtime.core.sampling import InvalidSampling
from services.runtime.inbound.cuts import KeyRevoked
from services.runtime.inbound.patience import EngineStalled


class Draining(Exception):
    """This runtime is going away; another endpoint serves."""


class NotReady(Exception):
    """The model is still being read, or its engine has died; another endpoint serves."""


class OutsideBoundary(Exception):
    """The tenant belongs to another pool; an endpoint of that one serves it."""


class ModelNotFound(LookupError):
    """Another model than this runtime's; nothing routes it here."""

    field = "model"


ERRORS: ErrorTable = {
    ContextTooLong: Status(grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG"),
    ContextLimit: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "CONTEXT_LIMIT"),
    OutputLimit: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "OUTPUT_LIMIT"),
    InvalidInput: Status(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
    InvalidSampling: Status(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
    ModelNotFound: Status(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    Draining: Status(grpc.StatusCode.UNAVAILABLE, "DRAINING"),
    NotReady: Status(grpc.StatusCode.UNAVAILABLE, "NO_ENDPOINT"),
    OutsideBoundary: Status(grpc.StatusCode.UNAVAILABLE, "NO_ENDPOINT"),
    EngineStalled: Status(grpc.StatusCode.UNAVAILABLE, "ENGINE_STALLED"),
    EngineFailed: Status(grpc.StatusCode.UNAVAILABLE, "ENGINE_FAILED"),
    AttemptNotCovered: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXHAUSTED"),
    ReservationSpent: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXHAUSTED"),
    EstimateTooLow: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_ESTIMATE_LOW"),
    JournalUnwritable: Status(grpc.StatusCode.UNAVAILABLE, "JOURNAL_UNWRITABLE"),
    LedgerUnreachable: Status(grpc.StatusCode.UNAVAILABLE, "LEDGER_UNREACHABLE"),
    KeyRevoked: Status(grpc.StatusCode.UNAUTHENTICATED, "KEY_REVOKED"),
    CertificateRevoked: Status(grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_REVOKED"),
}


@contextmanager
def fields_named(context: grpc.aio.ServicerContext, names: Mapping[str, str]) -> Iterator[None]:
    """Renames the field that an error names, and puts it into the trailers too.

    Envoy turns a refusal into OpenAI's JSON from plain trailers; it can't read the details.
    """
    try:
        yield
    except (InvalidInput, InvalidSampling, ModelNotFound) as error:
        error.field = names.get(error.field, error.field)
        trailers = (*(context.trailing_metadata() or ()), ("x-evenflow-field", error.field))
        context.set_trailing_metadata(trailers)
        raise
