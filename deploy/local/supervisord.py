"""supervisord, with logs that outlive a full disk.

Its own rotation closes the file first; if the next one can't be made, supervisord never again reads
from that program, which then stops for good at its next line.
"""

import sys
from contextlib import suppress
from typing import Any, BinaryIO

from supervisor import loggers, supervisord


class PatientLog(loggers.RotatingFileHandler):  # type: ignore[misc] # supervisor has no types
    """Loses lines while it can't write, and goes on as soon as it can."""

    stream: BinaryIO

    def emit(self, record: Any) -> None:
        with suppress(OSError):
            if self.stream.closed:
                self.stream = open(self.baseFilename, "ab")  # noqa: PTH123, SIM115 - kept open
            super().emit(record)


if __name__ == "__main__":
    loggers.RotatingFileHandler = PatientLog  # where supervisord looks for it
    sys.exit(supervisord.main())
