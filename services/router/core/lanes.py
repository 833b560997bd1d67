"""What is queued together, and started by the same endpoints: a model, within a boundary."""

from typing import NamedTuple


class Lane(NamedTuple):
    model: str
    pool: str = ""  # of the endpoints that serve it; empty: the shared one
