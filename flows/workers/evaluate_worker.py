"""Worker of the stage `evaluate`: puts the questions about some pictures to one system."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from components import schema
from components.compression.identity import find_base, read_config
from components.costs.inference_costs import ModelSize, method_costs
from components.evaluation.asking import (
    COST,
    LENGTH,
    SIZE,
    Record,
    answer_questions,
    caption_pictures,
    embed_images,
    embed_texts,
    score_caption_pairs,
    to_table,
)
from components.evaluation.evaluation_settings import EvaluateParams
from components.evaluation.question_set import QuestionSet, read_question_set
from components.evaluation.systems import (
    AVERAGE_POOLED,
    BLIND,
    COMPRESSED,
    DOWNSAMPLED,
    UNCOMPRESSED,
    EvaluatedSystem,
    base_system,
    compressed_system,
)
from components.methods.blocks.vision_tower import matrix_weights, vision_weights
from components.methods.checkpoint import load_compressor
from components.methods.method import Method
from components.model.backbone import Backbone
from components.model.loading import load_backbone
from components.model.pooling import pool_pictures
from components.model.segments import Segment, text_segment
from components.pictures import PictureError, decode_picture
from components.store.not_stored import dtype_wanted, reason_not_stored
from components.store.store_reader import StoreReader

Task = dict[str, Any]  # {"system": one of SYSTEMS, "image_ids": [...], "texts": [...]}


class EvaluationWorker:
    """Worker that holds one model at a time, the compressor or the base."""

    def __init__(self, params: dict[str, Any], curated: str, compressor: str, store: str) -> None:
        self.params = EvaluateParams.model_validate(params)
        torch.set_num_threads(self.params.cpus_per_worker)

        self.curated, self.compressor = Path(curated), Path(compressor)
        self.base = find_base(self.compressor, None)
        self.question_set = read_question_set(self.curated, self.params.split)
        self.captioned = set(pictures_to_caption(self.params, self.question_set))

        # All systems compute in the number type of the stored tokens, so that they compare.
        self.store = None if reason_not_stored(Path(store)) else StoreReader.open(store)
        dtype = self.store.provenance.compute["dtype"] if self.store else dtype_wanted(Path(store))
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = torch.device("cuda" if self.params.gpus_per_worker else "cpu")

        # Loaded with the first task that needs it.
        self.model: Method | Backbone | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the records of one task."""
        (task,) = batch.to_pylist()
        start = time.perf_counter()
        ask = self._ask_compressor if task["system"] == COMPRESSED else self._ask_base
        return to_table(ask(task), task["system"], start)

    def _ask_compressor(self, task: Task) -> list[Record]:
        """Return answers, captions and embeddings, as far as the method gives them."""
        if not isinstance(self.model, Method):
            self.model = load_compressor(
                self.compressor, self.base, self.device, self.dtype, self.num_summary_tokens
            )
        model, records = self.model, []

        # None without pictures, as in a task of texts.
        image_ids, tokens = self._visual_tokens(model, task["image_ids"])
        if tokens is not None and not model.why_no_answers:
            system = compressed_system(model, image_ids, text_segment(tokens))
            records += self._answers_and_captions(system)
        if tokens is not None and not model.why_not_stored:
            for ranking in self.params.rankings:
                records += embed_images(COMPRESSED, model, image_ids, tokens, ranking)
        if tokens is not None:
            records += self._costs(model, image_ids[:1])

        for ranking in self.params.rankings:
            texts, prompts = task["texts"], self.params.prompts
            records += embed_texts(COMPRESSED, model, texts, ranking, prompts)
        return records

    @property
    def num_summary_tokens(self) -> int:
        """Summary tokens of the store, perhaps the first ones only; else the compressor's."""
        if self.store:
            return self.store.provenance.num_summary_tokens
        return read_config(self.compressor).compressor.num_summary_tokens

    def _visual_tokens(
        self, model: Method, image_ids: Sequence[str]
    ) -> tuple[list[str], torch.Tensor | None]:
        """Return tokens of pictures: stored ones, or computed now if the method stores none."""
        if self.store:
            found = [image_id for image_id in image_ids if image_id in self.store]
            return found, torch.from_numpy(self.store.tokens(found)) if found else None

        opened = self._opened(image_ids)
        if not opened:
            return [], None
        with torch.inference_mode():
            return list(opened), model.compress_pictures(model.prepare(list(opened.values())))

    def _costs(self, model: Method, image_ids: Sequence[str]) -> Iterator[Record]:
        """Yield COST, SIZE and LENGTH records, from one picture."""
        pictures = list(self._opened(image_ids).values())
        if not pictures:
            return

        size = model_size(model.backbone)
        for name, value in method_costs(model, size, model.prepare(pictures))._asdict().items():
            if value is not None:
                yield Record(COMPRESSED, COST, name, None, float(value))
        yield from size_records(COMPRESSED, size)

        # The picture with all its image tokens, for a run without the uncompressed system.
        for length in model.backbone.encode_images(model.backbone.prepare(pictures)).lengths:
            yield Record(COMPRESSED, LENGTH, image_ids[0], None, length)

    def _ask_base(self, task: Task) -> list[Record]:
        """Return answers, captions and pair scores of a system of the base model, and its sizes."""
        if not isinstance(self.model, Backbone):
            config = read_config(self.compressor)
            backbone = load_backbone(
                self.base, config.base_revision, self.dtype, "sdpa", config.pad_to_square
            )
            self.model = backbone.to(self.device).eval()

        # These systems differ only in the visual tokens that they read.
        backbone, name, image_ids, tokens = self.model, task["system"], task["image_ids"], None
        if name != BLIND:
            opened = self._opened(image_ids)
            image_ids = list(opened)
            tokens = self._image_tokens(name, backbone, list(opened.values())) if opened else None
        system = base_system(name, backbone, image_ids, tokens)

        records = self._answers_and_captions(system)
        records += score_caption_pairs(system, self.question_set, self.params.prompts)
        for image_id, length in system.lengths.items():
            records.append(Record(name, LENGTH, image_id, None, length))
        return records + size_records(UNCOMPRESSED, model_size(backbone))

    def _answers_and_captions(self, system: EvaluatedSystem) -> list[Record]:
        captioned = [image_id for image_id in system.image_ids if image_id in self.captioned]
        return [
            *answer_questions(system, self.question_set, self.params.prompts),
            *caption_pictures(system, captioned, self.params.prompts),
        ]

    def _image_tokens(
        self, system: str, backbone: Backbone, images: Sequence[Image.Image]
    ) -> Segment:
        """Return the image tokens of pictures that a system of the base model reads."""
        if system == DOWNSAMPLED:
            return backbone.encode_shrunk(images, self.num_summary_tokens)

        tokens = backbone.encode_images(backbone.prepare(images))
        if system == AVERAGE_POOLED:
            return pool_pictures(tokens, self.num_summary_tokens)
        return tokens

    def _opened(self, image_ids: Sequence[str]) -> Mapping[str, Any]:
        """Open pictures by id, in the order asked for, without those that cannot be opened."""
        if not image_ids:  # a task of texts
            return {}
        rows = pq.read_table(
            self.curated / "images" / self.params.split,
            columns=[schema.IMAGE_ID, schema.IMAGE],
            filters=[(schema.IMAGE_ID, "in", list(image_ids))],
        ).to_pylist()
        files = {row[schema.IMAGE_ID]: row[schema.IMAGE] for row in rows}

        # The table has an order of its own.
        opened = {}
        for image_id in filter(files.__contains__, image_ids):
            with suppress(PictureError):
                opened[image_id] = decode_picture(files[image_id], self.params.pictures)
        return opened


def model_size(backbone: Backbone) -> ModelSize:
    """Count the weights of a base model that cost something."""
    return ModelSize(matrix_weights(backbone.language_model), vision_weights(backbone))


def size_records(system: str, size: ModelSize) -> list[Record]:
    """Return a model's size as SIZE records."""
    records = []
    for field, count in size._asdict().items():
        records.append(Record(system, SIZE, field, None, float(count)))
    return records


def pictures_to_caption(params: EvaluateParams, question_set: QuestionSet) -> list[str]:
    """Return the pictures that every system captions."""
    return list(question_set.captions)[: params.captioned_pictures]
