"""The learned input embeddings whose outputs in the compression pass are the summary tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SummaryQueries(nn.Module):
    """`num_summary_tokens` trainable vectors in the language model's input space, float32."""

    def __init__(
        self, num_summary_tokens: int, embedding_table: Tensor, word_ids: Sequence[int], seed: int
    ) -> None:
        """Start at the embeddings of words, spread evenly over the queries (prompt tuning, arXiv 2104.08691, §3.2).

        Without words: at the mean of the embedding table (vocab, dim) plus noise of its own
        deviation, per channel.
        """
        super().__init__()
        table = embedding_table.detach().float()
        if word_ids:
            places = [
                query * len(word_ids) // num_summary_tokens for query in range(num_summary_tokens)
            ]
            self.weight = nn.Parameter(table[[word_ids[place] for place in places]])
            return
        noise = torch.randn(
            num_summary_tokens, table.shape[1], generator=torch.Generator().manual_seed(seed)
        )
        self.weight = nn.Parameter(table.mean(0) + table.std(0) * noise.to(table.device))

    def keep_first(self, num_summary_tokens: int) -> None:
        """Drop the other queries. Raises ValueError when there are fewer than that."""
        if not 1 <= num_summary_tokens <= len(self.weight):
            raise ValueError(
                f"{num_summary_tokens} summary tokens of a compressor with {len(self.weight)}"
            )
        self.weight = nn.Parameter(self.weight.detach()[:num_summary_tokens].clone())

    def forward(self, num_rows: int) -> Tensor:
        """The queries, the same for every row: (num_rows, num_summary_tokens, dim)."""
        return self.weight.repeat(num_rows, 1, 1)
