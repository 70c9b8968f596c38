"""Rejects: pictures that are not in a store, with a closed set of reasons to count by."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from components.files.tars import TarReason
from components.pictures import PictureReason
from components.store.codecs import Fault

CorpusReason = Literal[
    "bad_encoding",  # in a line of a list, like bad_id and bad_json
    "bad_id",
    "bad_json",
    "bad_record",
    "duplicate_id",
    "image_missing",
    "kills_decoder",  # several processes ended while they decoded it
    "multiple_images",  # in one sample of a tar
    "not_a_file",
    "path_escapes_root",
    "too_many_bytes",
    "unreadable",
]
REASONS: set[str] = {
    *get_args(CorpusReason),
    *get_args(TarReason),
    *get_args(PictureReason),
    *get_args(Fault),
}


class Reject(NamedTuple):
    """One picture that is not in the store; `detail` is for people."""

    image_id: str
    reason: str
    detail: str


class UnreadablePictureError(ValueError):
    """The bytes of a picture cannot be had; `reason` is one of CorpusReason."""

    def __init__(self, reason: CorpusReason | TarReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def reject_counts(rejects: list[Reject]) -> dict[str, int]:
    """Count the rejects by reason. Raises ValueError for a reason outside the closed set."""
    for reject in rejects:
        if reject.reason not in REASONS:
            raise ValueError(
                f"{reject.image_id}: {reject.reason!r} is no known reason; add it to {__name__}"
            )
    return dict(Counter(reject.reason for reject in rejects))


def read_rejects(path: Path) -> list[Reject]:
    """Read a file that holds `rejects_json`."""
    return [Reject(**reject) for reject in json.loads(path.read_bytes())["rejects"]]


def rejects_json(rejects: list[Reject]) -> dict[str, Any]:
    """Return the content of `_rejects.json`, sorted by picture id."""
    return {"rejects": [reject._asdict() for reject in sorted(rejects)]}
