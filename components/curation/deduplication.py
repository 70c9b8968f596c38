"""Exact and near duplicates, and leaks from the evaluation sets.

Exact: the hash of the decoded pixels. Near: the perceptual hash of ImageHash (DCT of a shrunken picture, one bit per
low frequency), taken of each colour channel, since two pictures may differ in a colour only; pictures within
`max_distance` bits count as the same picture. One rule decides who stays: the first in input order.

Instruction rows share pictures by design, so among them only the same picture with the same conversation is a
duplicate; among caption pairs the same picture is one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple

import imagehash
import numpy as np
from PIL import Image
from pydantic import Field

from components.curation.reasons import Reason, Repair
from components.params import Params


class NearDuplicateParams(Params):
    """When two pictures count as the same."""

    hash_size: Annotated[int, Field(ge=4)]  # frequencies per side; the hash has 3 · hash_size² bits
    max_distance: Annotated[int, Field(ge=0)]  # bits in which the hashes of near duplicates may differ
    min_contrast: Annotated[float, Field(ge=0)]  # standard deviation of grey values; flatter pictures have no hash


class Checked(NamedTuple):
    """One row after its own check, without picture and text. `reason` is None while the row is kept."""

    sample_id: str
    source: str
    task: int  # which piece of work read it
    number: int  # which row of that piece
    position: int  # where in that piece's staging file; -1 when it is not there
    image_sha256: str | None
    near_hash: str | None
    content_sha256: str | None
    repairs: tuple[str, ...]
    reason: str | None
    detail: str

    def reject(self, reason: Reason, detail: str) -> "Checked":
        return self._replace(reason=reason.value, detail=detail)


def perceptual_hash(image: Image.Image, params: NearDuplicateParams) -> str | None:
    """Hash of an RGB picture as hexadecimal digits; None for a flat picture, whose hash would be noise."""
    if float(np.asarray(image.convert("L")).std()) < params.min_contrast:
        return None
    bits = [imagehash.phash(channel, hash_size=params.hash_size).hash for channel in image.split()]
    return np.packbits(np.stack(bits)).tobytes().hex()


def representatives(hashes: Iterable[tuple[str, str | None]], num_bits: int, max_distance: int) -> dict[str, str]:
    """For each picture (pixel hash, perceptual hash) the earlier picture near it, else itself.

    Only pictures that represent others are compared with, so nearness does not chain. Two hashes of `num_bits` bits
    within `max_distance` agree on at least one of `max_distance` + 1 bands (pigeonhole): one dictionary per band finds
    all. Where several are near, the nearest counts.
    """
    bands = _bands(num_bits, max_distance + 1)
    buckets: list[dict[int, list[tuple[str, int]]]] = [defaultdict(list) for _ in bands]
    found: dict[str, str] = {}
    for picture, near_hash in hashes:
        if picture in found:
            continue
        found[picture] = picture
        if near_hash is None:
            continue
        value = int(near_hash, 16)
        keys = [(value >> start) & mask for start, mask in bands]
        near = _first_near(value, keys, buckets, max_distance)
        if near is not None:
            found[picture] = near
            continue
        for bucket, key in zip(buckets, keys, strict=True):
            bucket[key].append((picture, value))
    return found


def reject_leaks(rows: Sequence[Checked], near: Mapping[str, str], evaluation: Mapping[str, str]) -> list[Checked]:
    """Reject rows whose picture is, or nearly is, one of the `evaluation` pictures (pixel hash -> name)."""
    checked = []
    for row in rows:
        if row.reason is None and row.image_sha256 is not None:
            twin = row.image_sha256 if row.image_sha256 in evaluation else near[row.image_sha256]
            if twin in evaluation:
                row = row.reject(Reason.LEAKED_FROM_EVALUATION, f"same picture as {evaluation[twin]}")
        checked.append(row)
    return checked


def reject_duplicate_ids(rows: Sequence[Checked]) -> list[Checked]:
    """Reject rows that repeat an earlier row: id, picture and text."""
    seen: set[tuple[str, str | None, str | None]] = set()
    checked = []
    for row in rows:
        if row.reason is None:
            key = (row.sample_id, row.image_sha256, row.content_sha256)
            if key in seen:
                row = row.reject(Reason.DUPLICATE_ID, "an earlier row has the same id, picture and text")
            seen.add(key)
        checked.append(row)
    return checked


def make_ids_unique(rows: Sequence[Checked]) -> list[Checked]:
    """Give kept rows that share an id, but not their content, ids of their own; the first keeps the id.

    Public instruction data use one id for several conversations about a picture: a repeated id alone is no fault.
    """
    taken = {row.sample_id for row in rows}
    used: set[str] = set()
    checked = []
    for row in rows:
        if row.reason is None:
            if row.sample_id in used:
                repairs = (*row.repairs, Repair.ID_MADE_UNIQUE.value)
                row = row._replace(sample_id=_free_id(row.sample_id, taken), repairs=repairs)
                taken.add(row.sample_id)
            used.add(row.sample_id)
        checked.append(row)
    return checked


def reject_duplicate_samples(rows: Sequence[Checked]) -> list[Checked]:
    """Within a source, reject rows with the same picture and the same text as an earlier row."""
    first: dict[tuple[str, str | None, str | None], str] = {}
    checked = []
    for row in rows:
        if row.reason is None:
            key = (row.source, row.image_sha256, row.content_sha256)
            if key in first:
                row = row.reject(Reason.DUPLICATE_SAMPLE, f"same picture and text as {first[key]}")
            first.setdefault(key, row.sample_id)
        checked.append(row)
    return checked


def reject_duplicate_pictures(rows: Sequence[Checked], near: Mapping[str, str], sources: set[str]) -> list[Checked]:
    """Within each of `sources` (caption pairs), reject rows whose picture an earlier row has, exactly or nearly."""
    exact: dict[tuple[str, str], str] = {}
    nearly: dict[tuple[str, str], str] = {}
    checked = []
    for row in rows:
        if row.reason is None and row.source in sources and row.image_sha256 is not None:
            same, close = (row.source, row.image_sha256), (row.source, near[row.image_sha256])
            if same in exact:
                row = row.reject(Reason.DUPLICATE_PICTURE, f"same picture as {exact[same]}")
            elif close in nearly:
                row = row.reject(Reason.NEAR_DUPLICATE_PICTURE, f"nearly the same picture as {nearly[close]}")
            exact.setdefault(same, row.sample_id)
            nearly.setdefault(close, row.sample_id)
        checked.append(row)
    return checked


def reject_repeated_captions(rows: Sequence[Checked], sources: set[str], max_rows: int | None) -> list[Checked]:
    """Within each of `sources` (caption pairs), keep the first `max_rows` rows with the same caption."""
    counts: Counter[tuple[str, str | None]] = Counter()
    checked = []
    for row in rows:
        if row.reason is None and row.source in sources and max_rows is not None:
            key = (row.source, row.content_sha256)
            counts[key] += 1
            if counts[key] > max_rows:
                row = row.reject(Reason.REPEATED_CAPTION, f"{max_rows} earlier rows have the same caption")
        checked.append(row)
    return checked


def _bands(num_bits: int, count: int) -> list[tuple[int, int]]:
    """(first bit, mask) of `count` bands that cover the hash."""
    edges = [num_bits * i // count for i in range(count + 1)]
    return [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]


def _first_near(
    value: int, keys: list[int], buckets: list[dict[int, list[tuple[str, int]]]], max_distance: int
) -> str | None:
    """The nearest known picture within the distance; of equally near ones, the one whose name sorts first."""
    near = [
        ((value ^ other).bit_count(), picture)
        for bucket, key in zip(buckets, keys, strict=True)
        for picture, other in bucket.get(key, ())
    ]
    distance, picture = min(near, default=(max_distance + 1, ""))
    return picture if distance <= max_distance else None


def _free_id(sample_id: str, taken: set[str]) -> str:
    number = 2
    while f"{sample_id}#{number}" in taken:
        number += 1
    return f"{sample_id}#{number}"
