"""Decisions about rows by other rows: leaks, repeated ids, duplicates, and splits of what stays.

The facts about all rows are Parquet files; DuckDB joins, groups and sorts them within a memory
limit and goes to the disk beyond it, so that memory does not bound the number of rows. Every rule
goes by the order of the input, so the answer does not depend on which task finished first, and the
first of several equal rows stays. Joins, groups and sorts over all rows are of numbers: ids and
hashes are compared by their MD5, 16 bytes instead of hundreds.

| table | a row is |
|---|---|
| rows | an input row: its facts and `place`, its position in the input |
| rejected | the place of a row that goes, and why |
| hashes | a perceptual hash and its first picture; `claim`: of test, of validation, of training |
| near | two hashes that are nearly the same |
| leaked | a hash that is the same as one of the evaluation, or nearly |
| represented | a hash of training, and the nearly same one that stands for it |
| training | a training row without a leak; `twin` is the picture that stands for its picture |
| samples | a row that is kept, with the id and the split it gets |
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
from duckdb import DuckDBPyConnection

from components import schema
from components.curation.candidates import CandidateParams
from components.curation.database import ROWS_AT_ONCE, literal_paths, stream_rows
from components.curation.deduplication import NearDuplicateParams, pair_near_hashes, representatives
from components.curation.pieces import EVALUATION_SPLITS, pictures_source
from components.curation.reasons import Reason
from components.curation.training_sources import ONE_CAPTION_FORMATS, Source

TEST, VALIDATION, TRAINING = range(3)  # the order in which rows claim a picture

LOAD = """
CREATE TABLE rows AS
SELECT (task::BIGINT << 32) + number AS place, (role << 60) + place AS claim,
       md5_number(near_hash) AS hash_id, facts.* EXCLUDE (number), roles.* EXCLUDE (source)
FROM read_parquet($files, hive_partitioning = false) AS facts JOIN roles USING (source)
"""
REJECTED = """
CREATE TABLE rejected AS SELECT place, reason, detail FROM rows WHERE reason IS NOT NULL;
CREATE VIEW kept AS SELECT * EXCLUDE (reason, detail) FROM rows ANTI JOIN rejected USING (place);
"""

LEAKS = f"""
INSERT INTO rejected
WITH claimed AS (
    SELECT image_sha256, min(role) AS role, arg_min(source || '/' || sample_id, claim) AS name
    FROM kept WHERE role < {TRAINING} AND image_sha256 IS NOT NULL GROUP BY image_sha256
)
SELECT place, '{Reason.LEAKED_FROM_EVALUATION}', 'same picture as ' || name
FROM kept JOIN claimed USING (image_sha256) WHERE kept.role > claimed.role
"""
HASHES = """
CREATE TABLE hashes AS
WITH first AS (SELECT min(claim) AS claim FROM kept WHERE hash_id IS NOT NULL GROUP BY hash_id)
SELECT row_number() OVER (ORDER BY claim) AS number, hash_id, near_hash, image_sha256, place, role
FROM kept JOIN first USING (claim)
"""
# A training row is a leak when its picture is near any evaluation picture, whatever stands for that
# one.
NEAR_LEAKS = f"""
CREATE TABLE leaked AS
WITH evaluation AS (
    SELECT number, source || '/' || sample_id AS name
    FROM hashes JOIN rows USING (place) WHERE hashes.role < {TRAINING}
)
SELECT other AS number, arg_min(name, (distance, one)) AS name
FROM (FROM near UNION ALL SELECT number, number, 0 FROM evaluation) JOIN evaluation ON number = one
GROUP BY other;
INSERT INTO rejected
WITH leaks AS (SELECT hash_id, name FROM hashes JOIN leaked USING (number))
SELECT place, '{Reason.NEARLY_LEAKED}', 'nearly the same picture as ' || leaks.name
FROM kept JOIN leaks USING (hash_id) WHERE kept.role = {TRAINING};
"""

# Pairs of training pictures, in the order that `representatives` wants.
TRAINING_PAIRS = """
SELECT other, one FROM near
WHERE one NOT IN (SELECT number FROM leaked) AND other NOT IN (SELECT number FROM leaked)
ORDER BY other, distance, one
"""
TWINS = f"""
CREATE TABLE training AS
WITH others AS (
    SELECT represented.number, image_sha256
    FROM represented JOIN hashes ON hashes.number = representative
)
SELECT kept.place, source, task, position, sample_id, kept.image_sha256, content_sha256,
       one_caption, is_pair,
       coalesce(others.image_sha256, hashes.image_sha256, kept.image_sha256) AS twin
FROM kept LEFT JOIN hashes USING (hash_id) LEFT JOIN others USING (number)
WHERE kept.role = {TRAINING}
"""

# Of the rows that are still there and that `{where}` is about, all but the first `{limit}` that
# share `{key}` go.
REPEATS = """
INSERT INTO rejected
WITH keyed AS (
         SELECT place, md5_number({key}) AS key
         FROM training ANTI JOIN rejected USING (place) WHERE {where}
     ),
     shared AS (
         SELECT key, min(place) AS first FROM keyed GROUP BY key HAVING count(*) > {limit}
     ),
     numbered AS (
         SELECT place, first, row_number() OVER (PARTITION BY key ORDER BY place) AS nth
         FROM keyed JOIN shared USING (key)
     )
SELECT numbered.place, {reason}, {detail}
FROM numbered JOIN training AS earlier ON earlier.place = first
WHERE nth > {limit}
"""
# Hashes have one length: whatever is behind them, two such keys are equal when all of their parts
# are.
PICTURE_TEXT = "coalesce(image_sha256, '-') || coalesce(content_sha256, '-')"
DUPLICATE_PICTURES = f"""
INSERT INTO rejected
WITH keyed AS (
         SELECT place, md5_number(source || ' ' || image_sha256) AS same,
                md5_number(source || ' ' || twin) AS close
         FROM training ANTI JOIN rejected USING (place)
         WHERE one_caption AND image_sha256 IS NOT NULL
     ),
     first_same AS (
         SELECT same, min(place) AS same_place FROM keyed GROUP BY same HAVING count(*) > 1
     ),
     first_close AS (
         SELECT close, min(place) AS close_place FROM keyed GROUP BY close HAVING count(*) > 1
     )
SELECT keyed.place,
       CASE WHEN same_place < keyed.place THEN '{Reason.DUPLICATE_PICTURE}'
            ELSE '{Reason.NEAR_DUPLICATE_PICTURE}' END,
       CASE WHEN same_place < keyed.place THEN 'same picture as ' || equal.sample_id
            ELSE 'nearly the same picture as ' || alike.sample_id END
FROM keyed JOIN first_close USING (close) LEFT JOIN first_same USING (same)
JOIN training AS alike ON alike.place = close_place
LEFT JOIN training AS equal ON equal.place = same_place
WHERE keyed.place > close_place
"""

# Rows that share an id, but not their content: the first keeps it, the others get the lowest
# numbers that are free.
NEW_IDS = """
CREATE TABLE renamed AS
WITH left_over AS (SELECT place, sample_id FROM training ANTI JOIN rejected USING (place)),
     shared AS (
         SELECT md5_number(sample_id) AS key FROM left_over GROUP BY key HAVING count(*) > 1
     ),
     repeats AS (
         SELECT place, sample_id, row_number() OVER same - 1 AS nth FROM left_over
         SEMI JOIN shared ON md5_number(sample_id) = key
         WINDOW same AS (PARTITION BY sample_id ORDER BY place) QUALIFY nth > 0
     ),
     taken AS (
         SELECT DISTINCT ended['id'] AS sample_id, ended['number']::BIGINT AS number
         FROM (
             SELECT regexp_extract(sample_id, '(?s)^(.*)#([1-9][0-9]{0,9})$', ['id', 'number'])
                 AS ended
             FROM rows
         ) SEMI JOIN repeats ON ended['id'] = repeats.sample_id
         WHERE ended['number'] != ''
     ),
     counts AS (SELECT sample_id, count(*) AS num_taken FROM taken GROUP BY sample_id),
     possible AS (
         SELECT sample_id,
                unnest(range(2, 2 + count(*) + coalesce(any_value(num_taken), 0))) AS number
         FROM repeats LEFT JOIN counts USING (sample_id) GROUP BY sample_id
     ),
     free AS (
         SELECT sample_id, number, row_number() OVER (PARTITION BY sample_id ORDER BY number) AS nth
         FROM possible ANTI JOIN taken USING (sample_id, number)
     )
SELECT place, sample_id || '#' || number AS new_id FROM repeats JOIN free USING (sample_id, nth)
"""
# The key of the hash is the picture that stands for the row's own, so that near pictures share a
# split.
SAMPLES = f"""
CREATE TABLE samples AS
SELECT place, source, task, position, coalesce(new_id, sample_id) AS row_id,
       new_id IS NOT NULL AS is_renamed,
       ('0x' || substr(sha256($seed || ':' || coalesce(twin, row_id)), 1, 16))::UBIGINT / 2.0 ** 64
           AS uniform,
       CASE WHEN uniform < $fraction THEN '{schema.VALIDATION}' ELSE '{schema.TRAIN}' END AS split
FROM training ANTI JOIN rejected USING (place) LEFT JOIN renamed USING (place)
"""

EVALUATION_PICTURES = f"""
SELECT split, sample_id, rejected.place IS NULL FROM rows LEFT JOIN rejected USING (place)
WHERE role < {TRAINING} ORDER BY place
"""


def decide(
    database: DuckDBPyConnection,
    facts: Sequence[Path],
    sources: Mapping[str, Source],
    params: CandidateParams,
    seed: int,
    validation_fraction: float,
) -> None:
    """Make the tables of this module from files of schema FACTS."""
    # Rows that could not be used are rejected already, by themselves.
    database.register("roles", _role_table(sources))
    database.execute(LOAD, {"files": literal_paths(facts)})
    database.execute(REJECTED)

    # Test pictures have the first claim to a picture, then validation pictures, then training rows.
    database.execute(LEAKS)
    _reject_near_leaks(database, params.near_duplicates)

    # Training rows whose pictures are nearly the same count as rows of one picture.
    _represent_pictures(database)
    database.execute(TWINS)

    # The first of several equal rows stays.
    _reject_repeats(database, params.captions.max_rows_per_caption)

    # Rows that stay get ids of their own and, by their pictures, a split.
    database.execute(NEW_IDS)
    database.execute(SAMPLES, {"seed": str(seed), "fraction": validation_fraction})


def kept_pictures(database: DuckDBPyConnection) -> dict[str, dict[str, bool]]:
    """Return, by split, every evaluation picture and whether it was kept."""
    found: dict[str, dict[str, bool]] = {split: {} for split in EVALUATION_SPLITS}
    for split, name, is_kept in stream_rows(database, EVALUATION_PICTURES):
        found[split][name] = is_kept
    return found


def rows_of_tasks(database: DuckDBPyConnection) -> dict[int, int]:
    """Return how many rows every piece of work read."""
    return dict(stream_rows(database, "SELECT task, count(*) FROM rows GROUP BY task"))


def _role_table(sources: Mapping[str, Source]) -> pa.Table:
    """Return a table of the sources: the claim and the kind of the rows of each."""
    rows = []
    for split, role in ((schema.TEST, TEST), (schema.VALIDATION, VALIDATION)):
        kinds = {"one_caption": False, "is_pair": False}
        rows.append({"source": pictures_source(split), "role": role, "split": split, **kinds})

    # The split of training rows is drawn when all else is decided.
    for name, source in sources.items():
        one_caption, is_pair = source.format in ONE_CAPTION_FORMATS, source.format != "llava"
        kinds = {"one_caption": one_caption, "is_pair": is_pair}
        rows.append({"source": name, "role": TRAINING, "split": None, **kinds})
    return pa.Table.from_pylist(rows)


def _reject_near_leaks(database: DuckDBPyConnection, params: NearDuplicateParams) -> None:
    database.execute(HASHES)
    pair_near_hashes(database, params.num_digits, params.max_distance)
    database.execute(NEAR_LEAKS)


def _represent_pictures(database: DuckDBPyConnection) -> None:
    """Find an earlier picture to stand for every training picture that is nearly the same."""
    database.execute("CREATE TABLE represented (number BIGINT, representative BIGINT)")
    found = representatives(stream_rows(database, TRAINING_PAIRS))
    while part := list(islice(found, ROWS_AT_ONCE)):
        numbers, by = zip(*part, strict=True)
        database.register("part", pa.table({"number": numbers, "representative": by}))
        database.execute("INSERT INTO represented FROM part")


def _reject_repeats(database: DuckDBPyConnection, max_rows_per_caption: int | None) -> None:
    """Reject repeated rows, pictures and captions.

    Instruction rows share pictures by design, so among them only the same picture with the same
    conversation is a duplicate; among caption pairs with one caption per picture the same picture
    is one.
    """
    # rows that are the same in all they have
    detail = "'an earlier row has the same id, picture and text'"
    key = f"{PICTURE_TEXT} || sample_id"
    _reject_repeats_of(database, Reason.DUPLICATE_ID, detail, "true", key, 1)

    # rows of one source that differ by their id alone
    detail = "'same picture and text as ' || earlier.sample_id"
    key = f"{PICTURE_TEXT} || source"
    _reject_repeats_of(database, Reason.DUPLICATE_SAMPLE, detail, "true", key, 1)

    database.execute(DUPLICATE_PICTURES)

    # texts that a web site puts under all its pictures
    if max_rows_per_caption is not None:
        limit = max_rows_per_caption
        detail = f"'{limit} earlier rows have the same caption'"
        key = "coalesce(content_sha256, '-') || source"
        _reject_repeats_of(database, Reason.REPEATED_CAPTION, detail, "is_pair", key, limit)


def _reject_repeats_of(
    database: DuckDBPyConnection, reason: Reason, detail: str, where: str, key: str, limit: int
) -> None:
    rule = REPEATS.format(reason=f"'{reason}'", detail=detail, where=where, key=key, limit=limit)
    database.execute(rule)
