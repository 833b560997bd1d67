"""Wall-clock instants as the contracts write them."""

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(unix_s: float) -> Timestamp:
    """To the millisecond."""
    instant = Timestamp()
    instant.FromMilliseconds(round(unix_s * 1000))
    return instant
