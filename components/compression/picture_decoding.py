"""Decoding of untrusted bytes into batches that the model reads: what a CPU does for a GPU.

Bytes are fetched ahead, since a bucket answers late; decoding is watched, since a crafted picture
may end the process.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from components.compression.corpus import Picture
from components.compression.corpus_content import picture_digest
from components.files.row_watch import RowWatch
from components.model.prepared import PreparedPictures, merge
from components.pictures import PictureError, PictureLimits, decode_picture
from components.store.rejects import Reject, UnreadablePictureError

FETCHES = 8  # pictures fetched ahead
KILLER = "every process that decoded it ended without a word"

Prepare = Callable[[Sequence[Image.Image]], PreparedPictures]


class Batch(NamedTuple):
    """Consecutive pictures of a shard: the decoded ones as the model reads them, and rejects."""

    image_ids: list[str]
    widths: list[int]  # pixels
    heights: list[int]
    pictures: PreparedPictures  # of image_ids
    rejects: list[Reject]
    # hashes of all pictures, rejects too, in order: components/compression/corpus_content.py
    digests: list[bytes]


class Prepared(NamedTuple):
    """A decoded picture as the model reads it; of a large one only this small tensor is kept."""

    image_id: str
    width: int
    height: int
    pictures: PreparedPictures


def decode_batches(
    pictures: Iterable[Picture],
    prepare: Prepare,
    limits: PictureLimits,
    batch_size: int,
    watch: Path,
) -> Iterator[Batch]:
    """Cut pictures into batches of `batch_size`, rejects counted in, the last may be smaller.

    `watch`: a file that outlives this process; a picture at which several processes died becomes a
    reject. Raises OSError when the disk or the network fails.
    """
    with (
        ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch") as threads,
        RowWatch(watch) as rows,
    ):
        numbered = enumerate(_fetch(pictures, threads))
        while True:
            # Rejects count too, so that a batch ends at the same picture whatever fails.
            prepared: list[Prepared] = []
            rejects: list[Reject] = []
            digests: list[bytes] = []

            for number, (image_id, data) in islice(numbered, batch_size):
                item, digest = _decode(number, image_id, data, prepare, limits, rows)
                digests.append(digest)
                if isinstance(item, Reject):
                    rejects.append(item)
                else:
                    prepared.append(item)

            if not digests:
                return

            yield Batch(
                [item.image_id for item in prepared],
                [item.width for item in prepared],
                [item.height for item in prepared],
                merge([item.pictures for item in prepared]),
                rejects,
                digests,
            )


def _fetch(
    pictures: Iterable[Picture], threads: ThreadPoolExecutor
) -> Iterator[tuple[str, Future[bytes]]]:
    """Yield ids and bytes in order, FETCHES pictures ahead."""
    pending: deque[tuple[str, Future[bytes]]] = deque()
    for picture in pictures:
        if len(pending) == FETCHES:
            yield pending.popleft()
        pending.append((picture.image_id, threads.submit(picture.load)))
    while pending:  # a picture that is handed on is not kept
        yield pending.popleft()


def _decode(
    number: int,
    image_id: str,
    data: Future[bytes],
    prepare: Prepare,
    limits: PictureLimits,
    rows: RowWatch,
) -> tuple[Prepared | Reject, bytes]:
    """Decode a picture or reject it; also return the digest of its bytes."""
    try:
        content = data.result()
    except UnreadablePictureError as error:
        return Reject(image_id, error.reason, error.detail), picture_digest(image_id, error)
    digest = picture_digest(image_id, content)

    # The note of the row outlives this process: a picture that ends it is known by that.
    if not rows.begin(number):
        return Reject(image_id, "kills_decoder", KILLER), digest

    try:
        image = decode_picture(content, limits)
        prepared = Prepared(image_id, image.width, image.height, prepare([image]))
    except PictureError as error:
        return Reject(image_id, error.reason, error.detail), digest
    rows.end()
    return prepared, digest
