"""The spool keeps what it took, in order and once, whatever the process or the disk does."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.policy.v1 import audit_service_pb2 as pb
from services.router.outbound.spool import Spool, SpoolFull, SpoolTaken
from tests.unit.audit.test_chain import no_file_larger_than

LARGE = 1 << 20


def entry(sequence: int, size: int = 10) -> bytes:
    told = pb.SpooledEntry(sequence=sequence, subject="s" * size)
    return pb.AppendRequest(entries=[told]).SerializeToString()


def fill(spool: Spool, number: int, size: int = 10) -> None:
    for _ in range(number):
        spool.append(entry(spool.last + 1, size))


def held(spool: Spool) -> list[int]:
    """All that is not acknowledged, as it is shipped."""
    found: list[int] = []
    sent = spool.acknowledged
    while sent < spool.last:
        content, sent = spool.after(sent)
        found += [each.sequence for each in pb.AppendRequest.FromString(content).entries]
    return found


STEPS = st.lists(
    st.tuples(st.just("append"), st.integers(1, 9))
    | st.tuples(st.just("forget"), st.integers(0, 9))
    | st.tuples(st.sampled_from(["restart", "torn"]), st.integers(1, 9)),
    max_size=30,
)


@settings(deadline=None)
@given(steps=STEPS, segment_bytes=st.sampled_from([30, 100, 1000]))
def test_what_is_not_acknowledged_is_there_in_order(
    steps: list[tuple[str, int]], segment_bytes: int
) -> None:
    with tempfile.TemporaryDirectory(prefix="audit-") as name:
        folder = Path(name)
        spool = Spool(folder, most_bytes=LARGE, segment_bytes=segment_bytes)
        name_before, last, forgotten = spool.id, 0, 0
        for step, number in steps:
            if step == "append":
                fill(spool, number)
                last += number
            elif step == "forget":
                forgotten = min(last, forgotten + number)
                spool.forget(forgotten)
            else:
                spool.close()
                if step == "torn":
                    newest = max(folder.glob("*.bin"))
                    newest.write_bytes(newest.read_bytes() + entry(last + 1)[:number])
                spool = Spool(folder, most_bytes=LARGE, segment_bytes=segment_bytes)
            assert (spool.id, spool.last) == (name_before, last)
            assert held(spool)[-(last - forgotten) :] == list(range(forgotten + 1, last + 1)) or (
                last == forgotten
            )
        spool.close()


def test_a_process_that_is_killed_leaves_all_that_it_wrote(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from services.router.outbound.spool import Spool\n"
        "from tests.unit.router.test_spool import fill\n"
        f"fill(Spool(Path({str(tmp_path)!r}), most_bytes=1 << 20), 500)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environ = {**os.environ, "PYTHONPATH": ".:client"}
    killed = subprocess.run([sys.executable, "-c", script], env=environ, check=False)
    spool = Spool(tmp_path, most_bytes=LARGE)

    assert killed.returncode == -signal.SIGKILL
    assert held(spool) == list(range(1, 501))
    spool.close()


def test_a_full_one_takes_nothing_until_policy_has_taken_some(tmp_path: Path) -> None:
    spool = Spool(tmp_path, most_bytes=2000)
    with pytest.raises(SpoolFull, match="wait for policy"):
        fill(spool, 1000)
    before = spool.last

    spool.forget(before)
    fill(spool, 1)

    assert held(spool) == [before + 1]
    spool.close()


def test_what_the_disk_did_not_take_whole_is_not_there(tmp_path: Path) -> None:
    spool = Spool(tmp_path, most_bytes=LARGE)
    fill(spool, 3, size=100)

    with no_file_larger_than(350), pytest.raises(OSError, match=r"disk is full|File too large"):
        fill(spool, 1, size=100)
    fill(spool, 1)

    assert held(spool) == [1, 2, 3, 4]
    spool.close()


def test_one_that_is_older_than_policys_log_goes_on_after_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path, most_bytes=LARGE)
    fill(spool, 3)

    spool.forget(10)
    fill(spool, 1)

    assert held(spool) == [11]
    spool.close()


def test_two_processes_do_not_share_one(tmp_path: Path) -> None:
    first = Spool(tmp_path, most_bytes=LARGE)

    with pytest.raises(SpoolTaken):
        Spool(tmp_path, most_bytes=LARGE)
    first.close()
