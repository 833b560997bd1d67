"""The log on disk: it opens after a crash at any byte, and takes each spooled entry once."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.audit_verifying import SEGMENTS
from services.policy.outbound.audit_segments import AuditDamaged
from tests.unit.audit.logs import made, opened, proof, spooled, write

BATCH = 5


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose last batch came after its last checkpoint."""
    folder = tmp_path_factory.mktemp("crashed") / "audit"
    with opened(folder, segment_bytes=1 << 20) as chain:
        write(chain, 1, 4)
        chain.append([spooled(1, 2)])
        chain.checkpoint()
        chain.append([spooled(*range(3, 3 + BATCH))])
    return folder


@settings(max_examples=200, deadline=None)
@given(lost=st.integers(0, 10_000))
def test_a_crash_at_any_byte_of_a_batch_leaves_a_log(crashed: Path, lost: int) -> None:
    with copied(crashed) as folder:
        segment = next(folder.glob(SEGMENTS))
        content = segment.read_bytes()
        batch = b"".join(content.splitlines(keepends=True)[-BATCH:])
        left = content[: len(content) - lost % (len(batch) + 1)]
        segment.write_bytes(left)
        torn = not left.endswith(b"\n")

        with opened(folder, segment_bytes=1 << 20) as chain:
            taken = chain.position("s1")
            chain.append([spooled(*range(1, 3 + BATCH))])
            number = chain.number
            chain.checkpoint()

        assert 2 <= taken <= 2 + BATCH
        assert number == 4 + 2 + BATCH + torn  # each once; what was cut off is told
        assert proof(folder).last == number


@contextmanager
def copied(log: Path) -> Iterator[Path]:
    folder = log.with_name("copy")
    shutil.copytree(log, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@settings(max_examples=50, deadline=None)
@given(at=st.integers(0, 1500))
def test_a_damaged_entry_stops_the_start(crashed: Path, at: int) -> None:
    with copied(crashed) as folder:
        segment = next(folder.glob(SEGMENTS))
        content = bytearray(segment.read_bytes())
        content[at] ^= 1
        segment.write_bytes(content)

        with pytest.raises(AuditDamaged, match=r"entry [1-5] in"), opened(folder):
            pass


def test_entries_that_are_gone_stop_the_start(tmp_path: Path) -> None:
    made(tmp_path / "audit")
    last = max((tmp_path / "audit").glob(SEGMENTS))
    last.write_bytes(b"")

    with pytest.raises(AuditDamaged, match="missing"), opened(tmp_path / "audit"):
        pass


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "audit"),
        pytest.raises(AuditDamaged, match="another process"),
        opened(tmp_path / "audit"),
    ):
        pass


def test_a_spools_entries_count_once_also_after_many_segments(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    with opened(folder) as chain:
        for first in range(1, 40, 4):
            chain.append([spooled(*range(first, first + 4))])
            chain.checkpoint()
    with opened(folder) as chain:
        chain.append([spooled(*range(1, 42))])

        assert (chain.number, chain.position("s1")) == (41, 41)


def test_missing_numbers_of_a_spool_are_told(tmp_path: Path) -> None:
    with opened(tmp_path / "audit") as chain:
        chain.append([spooled(1, 5)])
    text = next((tmp_path / "audit").glob(SEGMENTS)).read_text()

    assert '"action":"audit.gap","subject":"s1"' in text
    assert '"facts":{"first":"2","last":"4"}' in text


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_the_disk_did_not_take_whole_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    with opened(folder, segment_bytes=1 << 20) as chain:
        write(chain, 1, 3)
        with (
            no_file_larger_than(chain.end[1] + 700),
            pytest.raises(OSError, match="File too large"),
        ):
            write(chain, 4, 6)
        write(chain, 4, 4)
        chain.checkpoint()

    assert proof(folder).last == 4
