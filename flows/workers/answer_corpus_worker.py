"""Worker of the job `answer_corpus`: an actor that holds the model and finishes planned pieces."""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from components.answering.decoding import DecodingParams
from components.answering.job_pieces import answer_piece
from components.answering.questions import Question
from components.answering.results import Asked, piece_bytes
from components.compression.stored_model import load_model_of
from components.model.adapters import GENERATION
from components.params import Params
from components.store.store_reader import StoreReader
from components.store.unfinished_store import finish_shard


class AnswerParams(Params):
    """How questions are answered, and by how many workers."""

    decoding: DecodingParams
    batch_size: int = Field(ge=1)  # questions decoded together
    rows_per_piece: int = Field(ge=1)  # questions; their pictures are held in the cache at once
    num_workers: int = Field(ge=1)
    cpus_per_worker: int = Field(ge=1)  # also threads of the model
    gpus_per_worker: int = Field(ge=0, le=1)

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the answers: all but the number of workers."""
        return self.model_dump(mode="json", exclude={"num_workers"})


class QuestionAnswerer:
    """A Ray Data worker: loads the model once, then turns planned pieces into finished ones."""

    def __init__(self, params: dict[str, Any], task: dict[str, Any]) -> None:
        self.params = AnswerParams.model_validate(params)
        torch.set_num_threads(self.params.cpus_per_worker)
        self.work, self.store = Path(task["work"]), StoreReader.open(task["store"])

        compressor, base = Path(task["compressor"]), task["base"]
        model = load_model_of(self.store.provenance, compressor, base)
        model.adapters.merge(GENERATION)
        self.backbone = model.backbone

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Answer a piece, {"piece": JSON of number and questions} -> {"number": its number}.

        The finished piece lies in the work folder.
        """
        number, rows = json.loads(row["piece"])
        asked = [Asked(place, Question(*question)) for place, question in rows]
        questions = [question for _, question in asked]

        decoding, batch_size = self.params.decoding, self.params.batch_size
        outcomes = answer_piece(self.backbone, self.store.tokens, questions, decoding, batch_size)

        image_ids = [question.image_id for question in questions]
        finish_shard(self.work, number, piece_bytes(asked, outcomes), image_ids, [])
        return {"number": str(number)}
