"""The default run with several seeds: results/seeds.json, {score: a value per seed}, as a table.

The names are those of results/headline.json; `base_NAME` is the same score of the base model.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from components.reporting.seeds import Spread, spread
from components.reporting.wording import in_percent, plain, score

BASE = "base_"  # before the name of a score of the base model
Seeds = Mapping[str, Sequence[float]]  # score -> a value per seed, all in the same order
SEEDS = TypeAdapter(dict[str, list[float]])


class SeedRow(NamedTuple):
    """A score over seeds, and what the base model has of it."""

    label: str
    score: Spread
    base: float | None  # no seed changes it
    kept: Spread | None  # share of the base's; the lowest is the worst seed


def read_seeds(path: Path) -> Seeds:
    """Read results/seeds.json; nothing if nobody has made it. Raises ValueError for others."""
    if not path.is_file():
        return {}
    seeds = SEEDS.validate_json(path.read_bytes(), strict=True)

    # lists are values of the same seeds
    if len({len(values) for values in seeds.values()}) > 1 or not all(seeds.values()):
        raise ValueError(
            f"{path}: its scores are of different numbers of seeds; `make seeds` writes it anew"
        )
    return seeds


def is_seeds(path: Path) -> bool:
    """Return whether a file is such a result."""
    try:
        read_seeds(path)
    except (OSError, ValueError):
        return False
    return True


def seed_rows(seeds: Seeds) -> list[SeedRow]:
    """Return a row per score, with the base model's beside it where it has one."""
    rows = []
    for name, values in seeds.items():
        # the base's own scores stand beside those of the compressor
        if name.startswith(BASE) and name.removeprefix(BASE) in seeds:
            continue

        base, kept = seeds.get(BASE + name), None
        if base and all(base):
            kept = spread([ours / theirs for ours, theirs in zip(values, base, strict=True)])
        rows.append(SeedRow(label(name), spread(values), spread(base).mean if base else None, kept))
    return rows


def label(name: str) -> str:
    """Write text_to_image_r1 as text to image R@1."""
    words = re.sub(r"\b([rp])(\d+)$", lambda k: f"{k[1].upper()}@{k[2]}", plain(name))
    return words.replace("cider", "CIDEr")


def seeds_markdown(rows: Sequence[SeedRow]) -> str:
    """Write rows as the table of the README. Raises ValueError if there is none."""
    if not rows:
        raise ValueError("no score over seeds; `make seeds` measures them")

    num_seeds = rows[0].score.num_seeds
    lines = [f"| {num_seeds} seeds | mean (lowest … highest) | base | kept, mean | kept, worst |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        cells = [row.label, row.score.text(score)]
        cells.append("–" if row.base is None else score(row.base))
        kept = (row.kept.mean, row.kept.lowest) if row.kept else ()
        cells += [f"{in_percent(share)} %" for share in kept] or ["–", "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
