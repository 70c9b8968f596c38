import torch

from components.model.summary_queries import SummaryQueries


def test_queries_start_where_the_embedding_table_lies() -> None:
    table = torch.randn(500, 8) * torch.tensor([0.1, 1, 2, 3, 4, 5, 6, 7]) + torch.arange(8)
    queries = SummaryQueries(4000, table, [], seed=0).weight
    torch.testing.assert_close(queries.mean(0), table.mean(0), rtol=0, atol=0.5)
    torch.testing.assert_close(queries.std(0), table.std(0), rtol=0.1, atol=0)


def test_every_row_reads_the_same_float32_queries() -> None:
    queries = SummaryQueries(3, torch.randn(20, 4, dtype=torch.bfloat16), [], seed=0)
    rows = queries(5)
    assert rows.shape == (5, 3, 4)
    assert rows.dtype == torch.float32
    assert (rows == queries.weight).all()


def test_the_seed_decides() -> None:
    table = torch.randn(20, 4)
    first, again, other = (SummaryQueries(3, table, [], seed).weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_words_are_spread_evenly_over_the_queries() -> None:
    table = torch.randn(20, 4, dtype=torch.bfloat16)
    for num_queries, expected in ((2, [7, 5]), (4, [7, 3, 5, 11]), (6, [7, 7, 3, 5, 5, 11])):
        queries = SummaryQueries(num_queries, table, [7, 3, 5, 11], seed=0).weight
        assert torch.equal(queries, table[expected].float())
