r"""Stage `report`: everything that a run found, as one HTML page without loading or scripts.

    python -m flows.report CURATED PICTURES STORE EVALUATION METRICS CODECS INSPECTION METHODS \
        SEEDS COMPRESSOR BASE TRAINING PAGE

PICTURES is the corpus that STORE was compressed from: the page shows them, no model sees them
again. Texts are searched for in STORE by COMPRESSOR, as users do. METHODS is what a sweep over
other methods wrote, SEEDS what one over seeds wrote; both may be missing. No time and no path of
this machine is on the page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from components.compression.identity import check_same_model, read_config
from components.files.outputs import new_file
from components.methods.catalogue import method_class
from components.methods.checkpoint import load_compressor
from components.params import Params, load_params
from components.pictures import PictureLimits
from components.reporting.content import Examples, page_content
from components.reporting.examples_section import (
    Found,
    Query,
    draw_descriptions,
    draw_queries,
    found,
    outcome_boxes,
    sample,
)
from components.reporting.inputs import Inputs, Places, read_inputs
from components.reporting.inspection_section import (
    inspection_content,
    read_inspection,
    read_seen,
)
from components.reporting.metric_tables import DOWNSAMPLED, SYSTEMS
from components.reporting.page import is_page, render, write_page
from components.reporting.short_page import short_content
from components.reporting.thumbnails import mean_file_bytes, read_thumbnails, token_strip
from components.search.index import EmbeddingIndex
from components.search.query import embed_stored, embed_text
from components.search.vectors import in_memory
from components.store.not_stored import reason_not_stored
from components.store.store_reader import StoreReader
from flows.running.lifetime import die_with_parent


class ReportParams(Params):
    """Amounts of content; the content itself is drawn by the seed."""

    seed: int
    pictures: PictureLimits
    max_thumbnail_side: int = Field(ge=16)  # pixels
    pictures_with_tokens: int = Field(ge=0)  # at the top
    examples_per_box: int = Field(ge=1)  # answered questions
    descriptions: int = Field(ge=0)  # pictures with their captions
    queries: tuple[str, ...]  # texts to search for
    drawn_queries: int = Field(ge=0)  # captions of stored pictures to search for
    hits_per_query: int = Field(ge=1)  # pictures
    num_threads: int = Field(ge=1)  # CPU threads of the model


def report(params: ReportParams, places: Places, page: Path) -> None:
    """Write the page, complete or not at all. Raises OutputError before anything is read."""
    with new_file(page, is_page, places) as path:
        write_page(path, build_page(params, places))
    print(f"report: {page}, {page.stat().st_size / 1e6:.1f} MB", flush=True)


def build_page(params: ReportParams, places: Places) -> str:
    """Return the page as HTML."""
    inputs = read_inputs(places)
    if why := reason_for_short_page(inputs.metrics, places.store, places.compressor):
        return render(short_content(inputs.metrics, inputs.compressor, why), "short")

    # the section of `inspect` is made apart, and says which pictures it shows
    seen = read_seen(places.inspection, params.pictures)
    inspection = read_inspection(places.inspection)
    inside = inspection_content(inspection, seen, params.max_thumbnail_side)

    # pictures of the inspection are shown once more, beside their captions
    tokens = StoreReader.open(places.store)
    shown_inside = [picture["image_id"] for picture in inside["captions"]]
    examples = draw_examples(params, places, inputs, tokens, shown_inside)

    file_bytes = mean_file_bytes(places.pictures)
    manifest = tokens.manifest.model_dump()
    content = page_content(inputs, manifest, examples, file_bytes, params.seed)
    return render(content | {"inspection": inside})


def draw_examples(
    params: ReportParams,
    places: Places,
    inputs: Inputs,
    tokens: StoreReader,
    also_shown: Sequence[str],
) -> Examples:
    """Draw examples by the seed, and read their pictures and the ones `also_shown` elsewhere."""
    seed = params.seed
    boxes = outcome_boxes(inputs.answers, seed, params.examples_per_box)
    descriptions = draw_descriptions(inputs.captions, seed, params.descriptions)

    # texts that the settings name have no picture of their own
    queries = [Query(text, None) for text in params.queries]
    queries += draw_queries(inputs.captions, tokens.ids, seed, params.drawn_queries)
    searched = search(params, queries, tokens, places.compressor, places.base)
    opened = sample(tokens.ids, f"{seed} tokens", params.pictures_with_tokens)

    # every picture that stands anywhere on the page
    shown = {*opened, *also_shown}
    for box in boxes:
        shown.update(example.image_id for example in box.drawn)
    for result in searched:
        shown.update(image_id for image_id, _ in result.hits)
    shown.update(description.image_id for description in descriptions)
    pictures = read_thumbnails(places.pictures, shown, params.pictures, params.max_thumbnail_side)

    strips = {}
    for image_id in opened:
        strips[image_id] = token_strip(tokens.tokens([image_id])[0])
    return Examples(boxes, descriptions, searched, pictures, strips)


def reason_for_short_page(metrics: Mapping[str, Any], store: Path, compressor: Path) -> str | None:
    """Return the reason that there is not enough for the full page; None if there is enough."""
    # the page can say itself that nobody asked about downsampled pictures
    if left_out := set(SYSTEMS) - metrics.keys() - {DOWNSAMPLED}:
        names = ", ".join(sorted(left_out))
        return f"Its base model was not asked: evaluate.references has no {names}."

    # only a compressor whose tokens are stored and answer questions fills all sections
    if why := reason_not_stored(store):
        return why
    return method_class(read_config(compressor).method.name).why_no_answers


def search(
    params: ReportParams,
    queries: Sequence[Query],
    tokens: StoreReader,
    compressor: Path,
    base: Path,
) -> list[Found]:
    """Search the store for each query."""
    # vectors of different models cannot be compared
    check_same_model(tokens.provenance, compressor)

    torch.set_num_threads(params.num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, tokens.provenance.compute["dtype"])
    num_tokens = tokens.provenance.num_summary_tokens
    model = load_compressor(compressor, str(base), device, dtype, num_tokens)

    # a store of the test split fits into memory
    parts = [embed_stored(model, rows.summary_tokens) for rows in tokens.iter_batches()]
    index = EmbeddingIndex(tokens.ids, in_memory(np.concatenate(parts)))
    results = []
    for query in queries:
        # a ranking of everything, for the rank of the query's own picture
        ranking = index.search(embed_text(model, query.text)[0], len(tokens))
        results.append(found(query, ranking, params.hits_per_query))
    return results


def main(page: Path, **places: Path) -> None:
    """Write the results of a run as one HTML page; `places` has the fields of `Places`."""
    die_with_parent()
    report(load_params("report", ReportParams), Places(**places), page)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("report")
