"""What the workers of the stage `evaluate` run: each puts portions of the exam to the systems."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components import schema
from components.compression.identity import find_base, read_config
from components.costs.inference_costs import ModelSize, method_costs
from components.evaluation.asking import (
    COST,
    LENGTH,
    SIZE,
    Record,
    Sitting,
    answer_questions,
    describe_pictures,
    embed_images,
    embed_texts,
    to_table,
    weigh_pairs,
)
from components.evaluation.evaluation_settings import EvaluateParams
from components.evaluation.question_set import Exam, read_exam
from components.evaluation.systems import (
    AVERAGE_POOLED,
    BLIND,
    COMPRESSED,
    UNCOMPRESSED,
    base_reader,
    compressed_reader,
)
from components.methods.blocks.vision_tower import matrix_weights, vision_weights
from components.methods.checkpoint import load_compressor
from components.methods.method import Method
from components.model.backbone import Backbone
from components.model.loading import load_backbone
from components.model.pooling import pool_pictures
from components.model.segments import Segment, text_segment
from components.pictures import PictureError, decode_picture
from components.store.absence import dtype_wanted, reason_not_stored
from components.store.token_store import TokenStore

Task = dict[str, Any]  # {"system": one of SYSTEMS, "image_ids": [...], "texts": [...]}


class Examiner:
    """A worker. Holds one model at a time, the compressor or the base."""

    def __init__(self, params: dict[str, Any], curated: str, compressor: str, store: str) -> None:
        self.params = EvaluateParams.model_validate(params)
        torch.set_num_threads(self.params.cpus_per_worker)
        self.curated, self.compressor = Path(curated), Path(compressor)
        self.base = find_base(self.compressor, None)
        self.exam = read_exam(self.curated, self.params.split)
        self.store = None if reason_not_stored(Path(store)) else TokenStore.open(store)
        self.described = set(described_pictures(self.params, self.exam))
        self.device = torch.device("cuda" if self.params.gpus_per_worker else "cpu")
        self.dtype = getattr(
            torch,
            self.store.provenance.compute["dtype"] if self.store else dtype_wanted(Path(store)),
        )
        self.model: Method | Backbone | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The records of one portion."""
        (task,) = batch.to_pylist()
        start = time.perf_counter()
        if task["system"] == COMPRESSED:
            records = self._examine_compressor(task)
        else:
            records = self._examine_base(task)
        return to_table(records, task["system"], start)

    def _examine_compressor(self, task: Task) -> list[Record]:
        """Answers, captions and vectors, as far as the method gives them."""
        if not isinstance(self.model, Method):
            self.model = load_compressor(
                self.compressor, self.base, self.device, self.dtype, self.num_summary_tokens
            )
        model, records = self.model, []
        image_ids, tokens = self._known(model, task["image_ids"])
        if tokens is not None and not model.why_no_answers:
            visuals, chat = text_segment(tokens), model.backbone.chat
            records += self._answers_and_captions(
                Sitting(
                    COMPRESSED,
                    compressed_reader(model),
                    chat,
                    image_ids,
                    visuals,
                    model.num_placeholders,
                )
            )
        if tokens is not None and not model.why_not_stored:
            records += embed_images(COMPRESSED, model, image_ids, tokens)
        if tokens is not None:
            records += self._costs(model, image_ids[:1])
        return records + embed_texts(COMPRESSED, model, task["texts"], self.params.exam)

    @property
    def num_summary_tokens(self) -> int:
        """Of the store, which may hold the first ones only; of the compressor where there is none."""
        if self.store:
            return self.store.provenance.num_summary_tokens
        return read_config(self.compressor).compressor.num_summary_tokens

    def _known(
        self, model: Method, image_ids: Sequence[str]
    ) -> tuple[list[str], torch.Tensor | None]:
        """What is known of the pictures before a question: stored tokens, or what the method reads of them now."""
        if self.store:
            found = [image_id for image_id in image_ids if image_id in self.store]
            return found, torch.from_numpy(self.store.tokens(found)) if found else None
        opened = self._opened(image_ids)
        if not opened:
            return [], None
        with torch.inference_mode():
            return list(opened), model.compress_pictures(model.prepare(list(opened.values())))

    def _costs(self, model: Method, image_ids: Sequence[str]) -> Iterator[Record]:
        """COST, SIZE and LENGTH records, from one picture."""
        pictures = list(self._opened(image_ids).values())
        if not pictures:
            return
        size = sizes(model.backbone)
        for name, value in method_costs(model, size, model.prepare(pictures))._asdict().items():
            if value is not None:
                yield Record(COMPRESSED, COST, name, None, float(value))
        yield from size_records(COMPRESSED, size)
        for length in model.backbone.encode_images(model.backbone.prepare(pictures)).lengths:
            yield Record(COMPRESSED, LENGTH, image_ids[0], None, length)

    def _examine_base(self, task: Task) -> list[Record]:
        if not isinstance(self.model, Backbone):
            config = read_config(self.compressor)
            backbone = load_backbone(
                self.base, config.base_revision, self.dtype, "sdpa", config.pad_to_square
            )
            self.model = backbone.to(self.device).eval()
        backbone, image_ids, tokens = self.model, task["image_ids"], None
        if task["system"] != BLIND:
            image_ids, tokens = self._image_embeddings(backbone, image_ids)
            if task["system"] == AVERAGE_POOLED and tokens is not None:
                tokens = pool_pictures(tokens, self.num_summary_tokens)
        sitting = Sitting(
            task["system"], base_reader(backbone), backbone.chat, image_ids, tokens, None
        )
        said = self._answers_and_captions(sitting) + weigh_pairs(
            sitting, self.exam, self.params.exam
        )
        lengths = [
            Record(task["system"], LENGTH, key, None, length)
            for key, length in sitting.lengths.items()
        ]
        return [*said, *lengths, *size_records(UNCOMPRESSED, sizes(backbone))]

    def _answers_and_captions(self, sitting: Sitting) -> list[Record]:
        described = [image_id for image_id in sitting.image_ids if image_id in self.described]
        return [
            *answer_questions(sitting, self.exam, self.params.exam),
            *describe_pictures(sitting, described, self.params.exam),
        ]

    def _image_embeddings(
        self, backbone: Backbone, image_ids: Sequence[str]
    ) -> tuple[list[str], Segment | None]:
        """The pictures that can be opened, and what the language model reads of them; None if there are none."""
        opened = self._opened(image_ids)
        if not opened:
            return [], None
        return list(opened), backbone.encode_images(backbone.prepare(list(opened.values())))

    def _opened(self, image_ids: Sequence[str]) -> Mapping[str, Any]:
        """The pictures that can be opened, by id, in the order asked for."""
        if not image_ids:  # a portion of texts
            return {}
        folder = self.curated / "images" / self.params.split
        columns, wanted = (
            [schema.IMAGE_ID, schema.IMAGE],
            [(schema.IMAGE_ID, "in", list(image_ids))],
        )
        opened = {}
        for row in pq.read_table(folder, columns=columns, filters=wanted).to_pylist():
            with suppress(PictureError):
                opened[row[schema.IMAGE_ID]] = decode_picture(
                    row[schema.IMAGE], self.params.pictures
                )
        return {image_id: opened[image_id] for image_id in image_ids if image_id in opened}


def sizes(backbone: Backbone) -> ModelSize:
    """The weights of a base model that cost something."""
    return ModelSize(matrix_weights(backbone.language_model), vision_weights(backbone))


def size_records(system: str, size: ModelSize) -> list[Record]:
    """As SIZE records."""
    return [Record(system, SIZE, key, None, float(count)) for key, count in size._asdict().items()]


def described_pictures(params: EvaluateParams, exam: Exam) -> list[str]:
    """The pictures that every system describes."""
    return list(exam.captions)[: params.captioned_pictures]
