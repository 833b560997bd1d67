from dataclasses import dataclass
from pathlib import Path

import pytest

from services.chassis.environ import (
    Address,
    InvalidConfig,
    address,
    addresses,
    flag,
    one_of,
    path,
    positive,
    positive_int,
    read,
    setting,
    share,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    listen: Address = setting(address, help="where to listen")
    peers: tuple[Address, ...] = setting(addresses, default=(), help="whom to call")
    folder: Path = setting(path, default=Path("/certs"), help="certificates")
    wait_s: float = setting(positive, default=1.0, help="how long to wait")
    width: int = setting(positive_int, default=1, help="how many at once")
    sampled: float = setting(share, default=0.5, help="share of traces kept")
    quiet: bool = setting(flag, default=False, help="say less")
    engine: str = setting(one_of("a", "b"), default="a", help="which")


def test_reports_every_problem_at_once() -> None:
    environ = {
        "X_WAIT_S": "0",
        "X_WIDTH": "none",
        "X_SAMPLED": "2",
        "X_ENGINE": "c",
        "X_QUIET": "?",
    }

    with pytest.raises(InvalidConfig) as caught:
        read(Config, "X", environ)

    assert str(caught.value).splitlines() == [
        "X_LISTEN is not set: where to listen",
        "X_WAIT_S: must be above 0, got 0",
        "X_WIDTH: invalid literal for int() with base 10: 'none'",
        "X_SAMPLED: must be from 0 to 1, got 2",
        "X_QUIET: must be true or false, got ?",
        "X_ENGINE: must be one of a, b, got c",
    ]


def test_an_empty_variable_counts_as_unset() -> None:
    config = read(Config, "X", {"X_LISTEN": "127.0.0.1:1", "X_WAIT_S": ""})

    assert config.wait_s == 1.0


def test_reads_lists_and_unix_sockets() -> None:
    environ = {"X_LISTEN": "unix:/run/x.sock", "X_PEERS": "a:1, b:2"}

    config = read(Config, "X", environ)

    assert config.listen.is_unix
    assert [(peer.host, peer.port) for peer in config.peers] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    "text", ["nowhere", ":1", "host:", "host:x", "host:65536", "unix:relative"]
)
def test_an_address_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        address(text)
