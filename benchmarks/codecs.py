"""Pace of decoding of each codec, on the tokens of a store: pictures per second of one thread.

    python -m benchmarks.codecs --json codecs.json      (after `make repro`)

What they are worth for answers and search is the stage `codecs` (results/codecs.json, and the
report).
"""

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from components.store import codecs
from components.store.fit import Fit, fit_directions
from components.store.store_reader import StoreReader
from flows.codecs import FITTED_BYTES

REPEATS = 5


def rate(tokens: np.ndarray, codec: codecs.Codec, fit: Fit | None = None) -> float:
    """Decode `tokens` (pictures, summary_tokens, dim); the median pictures per second."""
    stored, seconds = codecs.encode(tokens, codec, fit), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        codecs.decode(stored, codec, tokens.shape[-1], fit)
        seconds.append(time.perf_counter() - start)
    return len(tokens) / statistics.median(seconds)


def main(
    store: Annotated[Path, typer.Option(help="In floats.")] = Path("data/compressed/test"),
    as_json: Annotated[
        Path | None, typer.Option("--json", help="Also write the table as JSON.")
    ] = None,
) -> None:
    """Time every codec."""
    torch.set_num_threads(1)
    reader = StoreReader.open(store)
    tokens = reader.tokens(reader.ids)
    shape = tokens.shape[1:]
    rows: list[tuple[str, int, float]] = []
    for codec in codecs.CODECS:
        rows.append((codec, codecs.picture_bytes(codec, *shape), rate(tokens, codec)))
    for num_bytes in FITTED_BYTES:
        fit = fit_directions(tokens.reshape(len(tokens), -1), num_bytes)
        rows.append((codecs.FITTED, fit.num_bytes, rate(tokens, codecs.FITTED, fit)))

    # For people, and for tables of the docs.
    print("| codec | bytes per picture | decoded/s |\n|---|---|---|")
    for name, num_bytes, decoded in rows:
        print(f"| {name} | {num_bytes} | {decoded:.0f} |")
    if as_json:
        names = ("codec", "bytes_per_picture", "pictures_per_second")
        table = [dict(zip(names, row, strict=True)) for row in rows]
        as_json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
