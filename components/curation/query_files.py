"""Search queries and the pictures that fit them, as BEIR writes them -> rows of schema.QUERIES.

Two files per split, queries.jsonl and qrels.tsv, which may both be missing. A picture fits a query
(score 1) or is not listed.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components import schema
from components.curation.accounting import Outcome
from components.curation.captions import read_delimited
from components.curation.evaluation_files import (
    Pictures,
    Row,
    TextCleaner,
    check_all,
    entry_name,
    find_picture,
    identifier,
)
from components.curation.reasons import Reason, Rejected
from components.curation.records import read_entries, shown
from components.curation.text_filters import TextLimits
from components.curation.written_tables import write_rows

QUERIES, QRELS = "queries.jsonl", "qrels.tsv"
FITS = "1"  # the score of a picture that fits
COLUMNS = {"query": "query-id", "picture": "corpus-id", "score": "score"}


def write_queries(
    raw: Path, output: Path, pictures: Mapping[str, Pictures], limits: TextLimits
) -> tuple[list[Outcome], dict[str, int]]:
    """Write the table of queries of every split, without rows where there are no files.

    Return what became of each row, and the number of rows per source.
    """
    outcomes: list[Outcome] = []
    rows_in: dict[str, int] = {}
    for split in sorted(pictures):
        source = f"evaluation/{split}"
        rows, of_queries, of_fitting = query_rows(raw / source, split, pictures[split], limits)
        write_rows(rows, schema.QUERIES, output / "queries" / f"{split}.parquet")

        outcomes += of_queries + of_fitting
        rows_in |= {f"{source}/queries": len(of_queries), f"{source}/qrels": len(of_fitting)}
    return outcomes, rows_in


def check_query_files(raw: Path, splits: Iterable[str]) -> list[str]:
    """Return the splits without queries.

    Raises ValueError for one file without the other, and for one that is broken as a whole.
    """
    without = []
    for split in splits:
        queries, qrels = (raw / "evaluation" / split / name for name in (QUERIES, QRELS))
        if not queries.is_file() and not qrels.is_file():
            without.append(split)
            continue

        # Half of them would be no scores, without a word.
        for path, other in ((queries, qrels), (qrels, queries)):
            if not path.is_file():
                raise ValueError(
                    f"{path}: no such file, and {other.name} is there; add it, or remove both"
                )
        next(read_entries(str(queries)), None)
        next(read_delimited(str(qrels), COLUMNS), None)
    return without


def query_rows(
    folder: Path, split: str, pictures: Pictures, limits: TextLimits
) -> tuple[list[Row], list[Outcome], list[Outcome]]:
    """Return rows of schema.QUERIES, and an outcome of each row of queries.jsonl and qrels.tsv."""
    if not (folder / QUERIES).is_file():
        return [], [], []

    # Which query a picture fits is said of queries that can be asked.
    queries, of_queries = _read_queries(folder / QUERIES, split, limits)
    known = {row[schema.QUERY_ID] for row in queries}
    fitting, of_fitting = _read_fitting(folder / QRELS, split, known, pictures, limits)

    # A query without pictures has no score.
    rows = []
    for row in queries:
        if image_ids := fitting.get(row[schema.QUERY_ID]):
            rows.append({**row, schema.IMAGE_IDS: sorted(image_ids)})
    return rows, list(_without_pictures(queries, of_queries, fitting)), of_fitting


def _read_queries(path: Path, split: str, limits: TextLimits) -> tuple[list[Row], list[Outcome]]:
    """Return queries without their pictures."""

    def check(record: Any, clean: TextCleaner) -> Row:
        return {
            schema.QUERY_ID: identifier(record["_id"]),
            schema.SPLIT: split,
            schema.KIND: clean.text(record["metadata"]["kind"]),
            schema.TEXT: clean.text(record["text"]),
        }

    entries = []
    for entry in read_entries(str(path)):
        entries.append((entry_name(entry, "_id"), entry.value))
    return check_all(entries, f"evaluation/{split}/queries", check, limits)


def _read_fitting(
    path: Path, split: str, known: Collection[str], pictures: Pictures, limits: TextLimits
) -> tuple[dict[str, set[str]], list[Outcome]]:
    """Return {query id: its pictures}."""
    fitting: dict[str, set[str]] = {}

    def check(record: Any, clean: TextCleaner) -> Row:
        query_id, image_id = record["query"], find_picture(record["picture"], pictures)
        if query_id not in known:
            detail = f"{QUERIES} has no query {shown(query_id)} that can be asked"
            raise Rejected(Reason.UNKNOWN_QUERY, detail)
        if record["score"] != FITS:
            score = shown(record["score"])
            detail = f"the score {score} is not {FITS}; leave out what does not fit"
            raise Rejected(Reason.BAD_RECORD, detail)

        # A picture may be named below the folder `pictures` or with it.
        if image_id in fitting.setdefault(query_id, set()):
            raise Rejected(Reason.DUPLICATE_ID, "an earlier row has the same query and picture")
        fitting[query_id].add(image_id)
        return record

    entries = read_delimited(str(path), COLUMNS)
    _, outcomes = check_all(entries, f"evaluation/{split}/qrels", check, limits)
    return fitting, outcomes


def _without_pictures(
    queries: Sequence[Row], outcomes: Iterable[Outcome], fitting: Mapping[str, Collection[str]]
) -> Iterator[Outcome]:
    """Yield the outcomes of queries; one that was kept so far is rejected if nothing fits it."""
    kept = iter(queries)
    for outcome in outcomes:
        if outcome.reason is None and not fitting.get(next(kept)[schema.QUERY_ID]):
            detail = f"{QRELS} names no picture for it that is kept"
            reason = Reason.NO_FITTING_PICTURE.value
            outcome = outcome._replace(reason=reason, detail=detail, repairs=())
        yield outcome
