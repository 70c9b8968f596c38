"""The learned input embeddings whose outputs in the compression pass are the summary tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SummaryQueries(nn.Module):
    """`num_summary_tokens` trainable vectors in the language model's input space, float32."""

    def __init__(self, num_summary_tokens: int, embedding_table: Tensor, word_ids: Sequence[int], seed: int) -> None:
        """Start at the embeddings of words, spread evenly over the queries (prompt tuning, arXiv 2104.08691, §3.2).

        Without words: at the mean of the embedding table (vocab, dim) plus noise of its own deviation, per channel.
        """
        super().__init__()
        table = embedding_table.detach().float()
        if word_ids:
            places = [query * len(word_ids) // num_summary_tokens for query in range(num_summary_tokens)]
            self.weight = nn.Parameter(table[[word_ids[place] for place in places]])
            return
        noise = torch.randn(num_summary_tokens, table.shape[1], generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(table.mean(0) + table.std(0) * noise.to(table.device))

    def forward(self, num_rows: int) -> Tensor:
        """The same queries for every row: (num_rows, summary tokens, dim)."""
        return self.weight.repeat(num_rows, 1, 1)
