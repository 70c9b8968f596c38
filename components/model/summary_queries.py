"""The learned input embeddings whose outputs in the compression pass are the summary tokens."""

import torch
from torch import Tensor, nn


class SummaryQueries(nn.Module):
    """`num_summary_tokens` trainable vectors in the language model's input space, float32."""

    def __init__(self, num_summary_tokens: int, embedding_table: Tensor, seed: int) -> None:
        """Start at the mean of the embedding table (vocab, dim) plus noise of its own deviation, per channel."""
        super().__init__()
        table = embedding_table.detach().float()
        noise = torch.randn(num_summary_tokens, table.shape[1], generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(table.mean(0) + table.std(0) * noise.to(table.device))

    def forward(self, num_rows: int) -> Tensor:
        """The same queries for every row: (num_rows, summary tokens, dim)."""
        return self.weight.expand(num_rows, -1, -1)
