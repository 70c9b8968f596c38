"""QueCC (arXiv 2411.03312, §4.2): visual tokens for one question, read from the patches.

The language model reads the question alone; its state at the last word is added to every patch,
and patches of a cell become one query, which reads the cell. Only the patches, of which all tokens
are made, could be stored.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from components.methods.blocks.cell_attention import NORM_EPSILON, CellAttention
from components.methods.blocks.token_reduction import (
    Connect,
    Reduced,
    Reducer,
    check_heads,
    mlp,
    reducing_method,
    square_counts,
)
from components.methods.blocks.vision_tower import (
    Needs,
    Reading,
    TowerShape,
    encoding_flops,
    llava_of,
)
from components.model.adapters import GENERATION
from components.model.segments import join, text_segment
from components.params import Params


class QueCCParams(Params):
    """Settings of QueCC."""

    # hidden states attended to, -1 the last of the tower; the first is the query's too
    layers: tuple[int, ...] = Field(min_length=1)
    num_heads: int = Field(ge=1)  # of the attention inside cells


class QueCC(Reducer):
    """Keep all patches before a question, and make tokens for it after it."""

    Settings = QueCCParams
    uses_connector = True

    def __init__(
        self, shape: TowerShape, num_tokens: int, settings: QueCCParams, connect: Connect
    ) -> None:
        super().__init__(shape, num_tokens, settings, connect)
        width, cell = shape.channels, round(shape.side / num_tokens**0.5)
        check_heads("components/baselines/quecc.yaml", settings.num_heads, width)
        self.needs = Needs(layers=settings.layers)

        # the question joins every patch, and the patches of a cell become its query
        question_norm = nn.LayerNorm(width, NORM_EPSILON)
        self.question = nn.Sequential(nn.Linear(shape.dim, width), question_norm)
        query_norm = nn.LayerNorm(width, NORM_EPSILON)
        self.query = nn.Sequential(*mlp(width, width, width), query_norm)
        self.pool = nn.Conv2d(width, width, cell, stride=cell, groups=width)
        self.read_cells = CellAttention(len(settings.layers), width, settings.num_heads)

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Return the numbers of square cells."""
        return square_counts(shape)

    def forward(self, reading: Reading) -> Tensor:
        """Return all that a question may want: (pictures, patches, layers · channels)."""
        return torch.cat(reading.patches, dim=-1)

    def for_questions(self, patches: Tensor, questions: Tensor) -> Tensor:
        """Make tokens (rows, num_tokens, dim) for questions (rows, dim).

        patches: (rows, patches, layers · channels).
        """
        # the base model may be in half precision, these weights are not
        dtype = self.pool.weight.dtype
        patches, questions = patches.to(dtype), questions.to(dtype)

        # the question in every patch of the first layer; a query is pooled from a cell of them
        asked = patches[..., : self.shape.channels] + self.question(questions)[:, None]
        grid = self.query(asked).transpose(1, 2).unflatten(2, (self.shape.side, self.shape.side))
        queries = self.pool(grid).flatten(2).transpose(1, 2)
        return self.connect(self.read_cells(queries, patches))


class QuestionReduced(Reduced):
    """A LLaVA that looks at the picture again for every question."""

    reducer: QueCC
    reads_questions = True
    why_not_stored = (
        "the visual tokens of QueCC are made for one question, from all patches of the picture: "
        "there is nothing smaller than these to store; ask it with the pictures at hand, as "
        "`evaluate` does"
    )

    def tokens_for_questions(
        self, encoded: Tensor, input_ids: Tensor, is_question: Tensor
    ) -> Tensor:
        """Make summary tokens (rows, summary tokens, dim) for the questions of chats."""
        return self.reducer.for_questions(encoded, self.read_questions(input_ids, is_question))

    @torch.no_grad()
    def read_questions(self, input_ids: Tensor, is_question: Tensor) -> Tensor:
        """Read each question alone, behind BOS: its last hidden state (rows, dim), no gradient."""
        # move the words of the questions to the end of the rows
        order = is_question.int().argsort(dim=1, stable=True)
        order = order[:, -max(1, int(is_question.sum(1).max())) :]
        words, mask = input_ids.gather(1, order), is_question.gather(1, order)
        # where nothing is asked, something is read, and nobody reads what comes of it
        mask[:, -1] = True

        read = join([self.bos(len(words)), text_segment(self.backbone.embed(words), mask.long())])
        last = torch.full((len(words), 1), read.mask.shape[1] - 1, device=words.device)
        with self.adapters.use(GENERATION):
            return self.read(read, places=last)[:, 0]

    def question_flops(
        self, language_model: int, num_question_tokens: float, num_generated: float
    ) -> float:
        """Return N_v V + N (K + 2 Q + G): the picture is encoded again, the question read twice."""
        read = self.num_summary_tokens + 2 * num_question_tokens + num_generated
        return encoding_flops(llava_of(self.backbone, "quecc")) + 2 * language_model * read


METHOD = reducing_method(QueCC, QuestionReduced, num_stages=2)
