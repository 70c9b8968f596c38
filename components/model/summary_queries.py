"""Learned input embeddings H_r (§3.2), whose outputs in the first pass are summary tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SummaryQueries(nn.Module):
    """`num_summary_tokens` trainable vectors in the language model's input space, float32."""

    def __init__(
        self, num_summary_tokens: int, embedding_table: Tensor, word_ids: Sequence[int], seed: int
    ) -> None:
        """Start at the embeddings of words, spread evenly over the queries.

        Words as in prompt tuning (arXiv 2104.08691, §3.2). Without words: start at the mean of
        `embedding_table` (vocab, dim) plus noise of its own deviation, per channel.
        """
        super().__init__()
        table = embedding_table.detach().float()

        if word_ids:
            step = len(word_ids)
            words = [word_ids[at * step // num_summary_tokens] for at in range(num_summary_tokens)]
            self.weight = nn.Parameter(table[words])
            return

        # On the CPU, whose generator draws the same numbers on every machine.
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(num_summary_tokens, table.shape[1], generator=generator)
        self.weight = nn.Parameter(table.mean(0) + table.std(0) * noise.to(table.device))

    def keep_first(self, num_summary_tokens: int) -> None:
        """Keep the first queries and drop the others. Raises ValueError when there are fewer."""
        if not 1 <= num_summary_tokens <= len(self.weight):
            raise ValueError(
                f"{num_summary_tokens} summary tokens of a compressor with {len(self.weight)}"
            )
        self.weight = nn.Parameter(self.weight.detach()[:num_summary_tokens].clone())

    def forward(self, num_rows: int) -> Tensor:
        """Return the queries for every row: (num_rows, num_summary_tokens, dim)."""
        return self.weight.repeat(num_rows, 1, 1)
