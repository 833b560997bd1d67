"""An access-log entry with anything in it is read, and its request's slot is freed once."""

from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.core.inflight import Slot
from services.router.core.requests import Requests
from services.router.inbound.access_log import reason
from services.router.inbound.log_entries import ended
from tests.fuzz.messages import fields
from tests.unit.router.values import A, decision

VALUES = (
    st.text(max_size=20)
    | st.integers().map(str)
    | st.sampled_from(["", "r1", "٣", "9" * 5000, "-1", "1e5", "²"])
)
NAMES = st.sampled_from(
    [
        *("grpc-status", "x-evenflow-reason", "x-evenflow-tenant", "x-evenflow-request-id"),
        *(f"x-evenflow-{kind}-tokens" for kind in ("prompt", "cached", "output")),
        *("x-evenflow-model-version", "x-evenflow-engine"),
    ]
)
SAID = st.dictionaries(NAMES, VALUES)


@st.composite
def entries(draw: st.DrawFn) -> HTTPAccessLogEntry:
    entry = HTTPAccessLogEntry()
    try:
        entry.MergeFromString(draw(st.lists(fields(), max_size=6).map(b"".join)))
    except DecodeError:
        entry.Clear()
    entry.request.request_headers.update(draw(SAID))
    entry.response.response_headers.update(draw(SAID))
    entry.response.response_trailers.update(draw(SAID))
    entry.request.request_id = draw(VALUES)
    entry.response.response_code.value = draw(st.integers(0, 2**32 - 1))
    entry.common_properties.duration.seconds = draw(st.integers(-(2**62), 2**62))
    return entry


@given(st.lists(entries(), max_size=4))
@settings(deadline=None)
def test_any_entry_is_read_and_frees_at_most_its_own_slot(some: list[HTTPAccessLogEntry]) -> None:
    requests = Requests(kept=10)
    requests.admit(decision("r1"), Slot(A, 10, 100.0))
    said = [ended(entry) for entry in (*some, *some)]

    for end in said:
        request = requests.end(end)
        assert request is None or len(reason(request, end)) <= 100

    assert requests.load(A).requests == int("r1" not in {end.request_id for end in said})
    assert all(0 <= end.grpc_code <= 16 for end in said)
