"""Kinds of corpus, on a disk or in a bucket: folders of pictures, Parquet, lists, tars."""

import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

import pyarrow as pa

from components.compression.corpus import ENTRIES, Corpus, Kind, Picture, Shard, build_corpus
from components.compression.corpus_folders import OUTSIDE, list_folder
from components.compression.corpus_lists import list_pictures
from components.compression.corpus_tables import list_parquet, read_parquet
from components.files.links import OutsideRootsError, real_place
from components.files.storage import (
    PICTURE_EXTENSIONS,
    FileTooLargeError,
    is_storage_fault,
    is_uri,
    join,
    matching_files,
    name_of,
    names_in,
    printable,
    read_file,
    state_of,
)
from components.files.tars import ShardSample, read_shard
from components.store.rejects import UnreadablePictureError

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "list": (".csv", ".tsv", ".jsonl", ".ndjson"),
    "tars": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"),
}


def list_corpus(place: str, suffixes: Sequence[str], allowed_roots: Sequence[str] = ()) -> Corpus:
    """List a folder, one file, or the files that a place with wild cards stands for.

    `suffixes`: of the pictures of a folder, lower case. `allowed_roots`: folders that links in it
    may lead into. Raises ValueError: nothing there, two kinds in one place, or tables without the
    columns.
    """
    root, places, pictures = _look(place, suffixes, allowed_roots)

    # One place holds one kind of corpus: a mixture would be a guess.
    found: dict[Kind, list[str]] = defaultdict(list)
    for file in places:
        if kind := _kind_of(file):
            found[kind].append(file)
    kinds = [kind for kind in SUFFIXES if kind in found]
    if pictures and pictures.files:
        kinds.append("folder")
    if len(kinds) > 1:
        raise ValueError(
            f"{place}: holds {' and '.join(kinds)}; give each kind a folder of its own"
        )

    # Tables, lists or tars in a folder are the corpus; then pictures may not lie beside them.
    for kind, files in found.items():
        return LISTED[kind](root, files)._replace(skipped=_passed_over(pictures, files))
    if pictures and pictures.files:
        return pictures

    skipped = f"; it holds {pictures.skipped}" if pictures and pictures.skipped else ""
    raise ValueError(
        f"{place}: holds no pictures ({', '.join(suffixes)}) and none of {_known_suffixes()}"
        f"{skipped}"
    )


def list_tars(root: str, places: Sequence[str]) -> Corpus:
    """List tars by their names and sizes only."""
    states = [state_of(place) for place in places]
    names = [state.name for state in states]
    for name in names:
        if printable(name) != name:
            raise ValueError(
                f"{root}: the name of {printable(name)} is no UTF-8, and ids begin with it; "
                "rename it"
            )

    # The ids of a tar's pictures begin with its name.
    folders = [f"{_stem(name)}/" for name in names]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"{root}: two tars have one name but for the suffix, so that ids would be equal; "
            "rename one"
        )

    entries = pa.Table.from_arrays([folders, names, [0] * len(names)], schema=ENTRIES)
    return build_corpus("tars", root, entries, [], {}, states)


LISTED: dict[Kind, Callable[[str, Sequence[str]], Corpus]] = {
    "parquet": list_parquet,
    "list": list_pictures,
    "tars": list_tars,
}


def read_pictures(
    kind: Kind, root: str, shard: Shard, max_bytes: int, allowed_roots: Sequence[str] = ()
) -> Iterator[Picture]:
    """Read the pictures of a shard in the order of their files and rows.

    No picture of more than `max_bytes` is loaded. Links of a folder are looked at again: they may
    lead elsewhere than when they were listed. Raises OSError when the disk or the network fails: a
    picture that can be read a minute later is no reject.
    """
    if kind == "tars":
        yield from _read_tar(join(root, shard.files[0]), max_bytes)
        return

    # Every Parquet file of the shard is opened once, for all of its rows.
    if kind == "parquet":
        wanted: dict[str, dict[int, str]] = defaultdict(dict)
        for image_id, name, row in zip(shard.image_ids, shard.files, shard.rows, strict=True):
            wanted[name][row] = image_id
        for name, rows in sorted(wanted.items()):
            yield from read_parquet(join(root, name), rows, max_bytes)
        return

    # Files of their own; only those of a folder on a disk can be links that lead out of it.
    has_links = kind == "folder" and not is_uri(root)
    for image_id, name in zip(shard.image_ids, shard.files, strict=True):
        if has_links:
            load = partial(_read_within, root, name, max_bytes, allowed_roots)
        else:
            load = partial(_read_picture, join(root, name), max_bytes)
        yield Picture(image_id, load)


def _look(
    place: str, suffixes: Sequence[str], allowed_roots: Sequence[str]
) -> tuple[str, list[str], Corpus | None]:
    """Find the root of a place, its files that are no pictures, and its pictures in a folder."""
    # A file may have a name with wild cards: then it is meant itself.
    name = name_of(place)
    has_wild_cards = "*" in name or "?" in name
    if has_wild_cards and (is_uri(place) or not os.path.lexists(place)):
        return posixpath.dirname(place) or ".", matching_files(place), None

    if not is_uri(place) and not Path(place).exists():
        raise ValueError(f"{place}: there is no such folder or file")
    if _kind_of(place) and (is_uri(place) or Path(place).is_file()):
        return posixpath.dirname(place) or ".", [place], None
    if not is_uri(place) and not Path(place).is_dir():
        raise ValueError(f"{place}: is neither a folder nor one of {_known_suffixes()}")

    # Names that Parquet readers leave out are no part of a corpus either.
    files = []
    for name in sorted(names_in(place)):
        if not name.startswith((".", "_")):
            files.append(join(place, name))
    return place, files, list_folder(place, suffixes, allowed_roots)


def _passed_over(folder: Corpus | None, read: Sequence[str]) -> dict[str, int]:
    """Count the files of a folder, at any depth, that are not among the `read`, by suffix."""
    left = Counter(folder.skipped if folder else {})
    for place in read:
        left[PurePosixPath(name_of(place)).suffix.lower()] -= 1
    return dict(sorted((+left).items()))


def _known_suffixes() -> str:
    return ", ".join(chain.from_iterable(SUFFIXES.values()))


def _kind_of(place: str) -> Kind | None:
    for kind, suffixes in SUFFIXES.items():
        if name_of(place).lower().endswith(suffixes):
            return kind
    return None


def _read_picture(place: str, max_bytes: int) -> bytes:
    return _read_or_refuse(lambda: read_file(place, max_bytes))


def _read_within(root: str, name: str, max_bytes: int, allowed_roots: Sequence[str]) -> bytes:
    return _read_or_refuse(lambda: read_file(real_place(root, name, allowed_roots), max_bytes))


def _read_or_refuse(read: Callable[[], bytes]) -> bytes:
    """Read a picture; a failure that would last becomes UnreadablePictureError."""
    try:
        return read()
    except OutsideRootsError:
        raise UnreadablePictureError("path_escapes_root", OUTSIDE) from None
    except FileNotFoundError:
        raise UnreadablePictureError(
            "image_missing", "not there, gone since it was listed, or a broken link"
        ) from None
    except IsADirectoryError as error:
        raise UnreadablePictureError("not_a_file", str(error.strerror)) from None
    except FileTooLargeError as error:
        raise UnreadablePictureError("too_many_bytes", str(error)) from None
    except (OSError, ValueError) as error:
        if is_storage_fault(error):
            raise

        detail = getattr(error, "strerror", None) or str(error)
        raise UnreadablePictureError("unreadable", detail) from None


def _read_tar(place: str, max_bytes: int) -> Iterator[Picture]:
    """Read the samples of a tar; the id is the tar's name without its suffix, and the key."""
    name = name_of(place)
    for sample in read_shard(place, max_bytes):
        # A problem of the tar as a whole has the tar's name for a key.
        is_about_the_tar = sample.problem is not None and sample.key == name
        image_id = name if is_about_the_tar else f"{_stem(name)}/{sample.key}"
        yield Picture(image_id, partial(_picture_of, sample))


def _stem(name: str) -> str:
    suffix = next(filter(name.lower().endswith, SUFFIXES["tars"]))
    return name[: -len(suffix)]


def _picture_of(sample: ShardSample) -> bytes:
    """Return the one picture of a sample. Raises UnreadablePictureError."""
    if sample.problem is not None:
        if sample.problem.reason == "file_too_large":
            raise UnreadablePictureError("too_many_bytes", sample.problem.detail)
        raise UnreadablePictureError(sample.problem.reason, sample.problem.detail)

    # A sample is one id, so it is one picture; captions and other members are left alone.
    found = sorted(sample.members.keys() & PICTURE_EXTENSIONS)
    if not found:
        raise UnreadablePictureError("image_missing", f"no picture in the sample {sample.key}")
    if len(found) > 1:
        raise UnreadablePictureError(
            "multiple_images", f"{', '.join(found)} in the sample {sample.key}"
        )
    return sample.members[found[0]]
