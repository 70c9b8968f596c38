"""Stage `report`: everything that a run found, as one HTML page that loads nothing and runs nothing.

    python -m flows.report CURATED PICTURES STORE EVALUATION METRICS CODECS ANALYSIS METHODS COMPRESSOR BASE TRAINING
        PAGE

PICTURES is the corpus that STORE was compressed from: the page shows them, no model sees them
again. Texts are searched for in STORE by COMPRESSOR, as users do. METHODS is what a sweep over
other methods wrote, and may be missing. No time and no path of this machine is on the page.
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
from components.reporting.content import page_content
from components.reporting.examples_section import (
    Found,
    Query,
    draw_descriptions,
    draw_queries,
    found,
    outcome_boxes,
    sample,
)
from components.reporting.inputs import read_inputs
from components.reporting.inspection_section import analysis_content, read_analysis, read_seen
from components.reporting.metric_tables import SYSTEMS
from components.reporting.page import is_page, render, write_page
from components.reporting.short_page import short_content
from components.reporting.thumbnails import mean_file_bytes, read_thumbnails, token_strip
from components.search.index import EmbeddingIndex
from components.search.query import embed_stored, embed_text
from components.search.vectors import in_memory
from components.store.absence import reason_not_stored
from components.store.token_store import TokenStore
from flows.running.lifetime import die_with_parent


class ReportParams(Params):
    """How much is shown; what is shown is drawn by the seed."""

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


def report(
    params: ReportParams,
    curated: Path,
    pictures: Path,
    store: Path,
    evaluation: Path,
    metrics: Path,
    codecs: Path,
    analysis: Path,
    methods: Path,
    compressor: Path,
    base: Path,
    training: Path,
    page: Path,
) -> None:
    """Write the page, whole or not at all. Raises OutputError before anything is read."""
    read = [
        curated,
        pictures,
        store,
        evaluation,
        metrics,
        codecs,
        analysis,
        methods,
        compressor,
        base,
        training,
    ]
    with new_file(page, is_page, read) as path:
        write_page(path, build_page(params, *read))
    print(f"report: {page}, {page.stat().st_size / 1e6:.1f} MB", flush=True)


def build_page(
    params: ReportParams,
    curated: Path,
    pictures: Path,
    store: Path,
    evaluation: Path,
    metrics: Path,
    codecs: Path,
    analysis: Path,
    methods: Path,
    compressor: Path,
    base: Path,
    training: Path,
) -> str:
    """The page as HTML."""
    inputs = read_inputs(curated, evaluation, metrics, codecs, methods, compressor, base, training)
    if why := reason_for_short_page(inputs.metrics, store, compressor):
        return render(short_content(inputs.metrics, inputs.compressor, why), "short")
    tokens = TokenStore.open(store)
    boxes = outcome_boxes(inputs.answers, params.seed, params.examples_per_box)
    descriptions = draw_descriptions(inputs.captions, params.seed, params.descriptions)
    drawn = draw_queries(inputs.captions, tokens.ids, params.seed, params.drawn_queries)
    searched = search(
        params, [*(Query(text, None) for text in params.queries), *drawn], tokens, compressor, base
    )
    opened = sample(tokens.ids, f"{params.seed} tokens", params.pictures_with_tokens)
    shown = {example.image_id for box in boxes for example in box.drawn}
    shown |= {image_id for result in searched for image_id, _ in result.hits}
    shown |= {description.image_id for description in descriptions} | set(opened)
    seen = read_seen(analysis, params.pictures)
    inside = analysis_content(read_analysis(analysis), seen, params.max_thumbnail_side)
    shown |= {picture["image_id"] for picture in inside["told"]}
    content = page_content(
        inputs,
        tokens.manifest.model_dump(),
        boxes,
        descriptions,
        searched,
        read_thumbnails(pictures, shown, params.pictures, params.max_thumbnail_side),
        {image_id: token_strip(tokens.tokens([image_id])[0]) for image_id in opened},
        mean_file_bytes(pictures),
        params.seed,
    )
    return render(content | {"analysis": inside})


def reason_for_short_page(metrics: Mapping[str, Any], store: Path, compressor: Path) -> str | None:
    """Why there is not enough for the full page; None if there is."""
    if left_out := set(SYSTEMS) - metrics.keys():
        return f"Its base model was not asked: evaluate.references has no {', '.join(sorted(left_out))}."
    return (
        reason_not_stored(store) or method_class(read_config(compressor).method.name).why_no_answers
    )


def search(
    params: ReportParams, queries: Sequence[Query], tokens: TokenStore, compressor: Path, base: Path
) -> list[Found]:
    """What each query finds in the store."""
    torch.set_num_threads(params.num_threads)
    check_same_model(tokens.provenance, compressor)
    dtype = getattr(torch, tokens.provenance.compute["dtype"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_compressor(
        compressor, str(base), device, dtype, tokens.provenance.num_summary_tokens
    )
    parts = [embed_stored(model, rows.summary_tokens) for rows in tokens.iter_batches()]
    index = EmbeddingIndex(tokens.ids, in_memory(np.concatenate(parts)))
    return [
        found(
            query,
            index.search(embed_text(model, query.text)[0], len(tokens)),
            params.hits_per_query,
        )
        for query in queries
    ]


def main(
    curated: Path,
    pictures: Path,
    store: Path,
    evaluation: Path,
    metrics: Path,
    codecs: Path,
    analysis: Path,
    methods: Path,
    compressor: Path,
    base: Path,
    training: Path,
    page: Path,
) -> None:
    """Write all that was found as one HTML page."""
    die_with_parent()
    places = (curated, pictures, store, evaluation, metrics, codecs, analysis, methods)
    report(load_params("report", ReportParams), *places, compressor, base, training, page)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("report")
