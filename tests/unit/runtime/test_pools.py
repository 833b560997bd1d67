"""A runtime serves the tenants of its own pool, whoever sent them here."""

from typing import Any, cast

import pytest

from services.runtime.core.engine import Engine
from services.runtime.inbound.refusals import OutsideBoundary
from services.runtime.inbound.serving import Serving

SAID = {
    **dict.fromkeys(("request-id", "tenant", "workload", "workload-class", "cache-salt"), "x"),
    **dict.fromkeys(("priority", "max-context-tokens", "max-output-tokens"), "0"),
}


class Context:
    """Only its metadata is looked at."""

    def __init__(self, pool: str | None) -> None:
        said = SAID if pool is None else {**SAID, "pool": pool}
        self._metadata = tuple((f"x-evenflow-{key}", value) for key, value in said.items())

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


def ask(pool: str, of: str | None) -> str:
    engine = cast(Engine, None)  # nothing gets that far
    serving = Serving(engine, endpoint="127.0.0.1:1", pool=pool)
    return serving.owner(cast(Any, Context(of))).tenant


@pytest.mark.parametrize(("pool", "of"), [("", None), ("vault", "vault")])
def test_its_own_tenants_come_in(pool: str, of: str | None) -> None:
    assert ask(pool, of) == "x"


@pytest.mark.parametrize(("pool", "of"), [("", "vault"), ("vault", None), ("vault", "other")])
def test_others_are_sent_away(pool: str, of: str | None) -> None:
    with pytest.raises(OutsideBoundary):
        ask(pool, of)
