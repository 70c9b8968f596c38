"""Watch over rows that end their process: a picture that kills the decoder takes no others along.

Decoders are C code; a crafted file may end the process, and no exception says which. So the number
of a row is noted while it is checked, in a file that outlives the process. A row at which several
attempts ended is not tried again.
"""

import os
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

RECORD = 8  # bytes: one number per attempt
# at the same row; processes that are killed for other reasons are not at the same row so often
MAX_DEATHS = 3
MAX_ATTEMPTS = 50  # of a piece: Ray would start it again for ever
BETWEEN_ROWS = 2 ** (8 * RECORD) - 1


class RowWatch:
    """A file with the number of the row at work, for the next attempt; removed when all is done."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        self.path, self.offset = path, len(before)

        # The file outlives only processes that were killed: each left the number of its row.
        self.deaths: Counter[int] = Counter()
        for at in range(0, len(before), RECORD):
            self.deaths[int.from_bytes(before[at : at + RECORD])] += 1
        if self.deaths.total() >= MAX_ATTEMPTS:
            raise RuntimeError(
                f"{path.name}: {MAX_ATTEMPTS} processes ended while they worked on it; "
                "is memory short?"
            )

    def __enter__(self) -> Self:
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        self._note(BETWEEN_ROWS)
        return self

    def begin(self, number: int) -> bool:
        """Note the next row; return whether it may be tried: few processes have ended at it."""
        self._note(number)
        return self.deaths[number] < MAX_DEATHS

    def end(self) -> None:
        """Note that the row is checked: it is not to blame for a later end of the process."""
        self._note(BETWEEN_ROWS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.file)
        self.path.unlink(missing_ok=True)  # also after an exception: that says itself what is wrong

    def _note(self, number: int) -> None:
        os.pwrite(self.file, number.to_bytes(RECORD), self.offset)
