"""Hosts in network namespaces around one switch, which drops what it is told to, without a word.

Needs root and `ip` (iproute2). Addresses are those reserved for benchmarks, RFC 2544.
"""

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest

HERE = "gateway"  # the test's own namespace is a host too


class Network:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._hosts: list[str] = []

    def address(self, host: str) -> str:
        return f"198.18.{self._hosts.index(host)}.2"

    def command(self, host: str, *command: str) -> Sequence[str]:
        """The same command, run on that host."""
        return command if host == HERE else ("ip", "netns", "exec", self._space(host), *command)

    def join(self, host: str) -> None:
        number = len(self._hosts)
        self._hosts.append(host)
        far, near = f"{self._prefix}{number}s", f"{self._prefix}{number}h"
        if host != HERE:
            _run("ip", "netns", "add", self._space(host))
            self._on(host, "ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        _run("ip", "link", "set", far, "netns", self._space("switch"))
        if host != HERE:
            _run("ip", "link", "set", near, "netns", self._space(host))
        self._on(host, "ip", "addr", "add", f"198.18.{number}.2/24", "dev", near)
        self._on(host, "ip", "link", "set", near, "up")
        self._on("switch", "ip", "addr", "add", f"198.18.{number}.1/24", "dev", far)
        self._on("switch", "ip", "link", "set", far, "up")
        self._on(host, "ip", "route", "add", "198.18.0.0/16", "via", f"198.18.{number}.1")

    def cut(self, host: str, others: Iterable[str]) -> None:
        self._rules("add", host, others)

    def heal(self, host: str, others: Iterable[str]) -> None:
        self._rules("del", host, others)

    def start(self) -> None:
        _run("ip", "netns", "add", self._space("switch"))
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        self._on("switch", "sh", "-c", forward)

    def stop(self) -> None:
        for host in ("switch", *self._hosts):
            if host != HERE:
                _run("ip", "netns", "del", self._space(host))

    def _rules(self, verb: str, host: str, others: Iterable[str]) -> None:
        """One process for all of them: on a busy machine, each takes its time."""
        here = self.address(host)
        commands = [
            f"rule {verb} from {source} to {target} blackhole\n"
            for there in map(self.address, others)
            for source, target in ((here, there), (there, here))
        ]
        command = ("ip", "-n", self._space("switch"), "-batch", "-")
        subprocess.run(command, input="".join(commands).encode(), check=True, capture_output=True)

    def _space(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _on(self, host: str, *command: str) -> None:
        _run(*self.command(host, *command))


@contextmanager
def network(*hosts: str) -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.fail("this test makes network namespaces: run it as root, as CI does")
    made = Network(f"ev{os.getpid()}")
    made.start()
    try:
        for host in hosts:
            made.join(host)
        yield made
    finally:
        made.stop()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
