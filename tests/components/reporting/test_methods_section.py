"""From metrics to rows, groups and tables, against values worked out by hand."""

from pathlib import Path

import pytest

from components.reporting.methods_section import (
    MethodRun,
    flat_scores,
    group_runs,
    method_cost_rows,
    method_run,
    method_tables,
    read_runs,
    reference_runs,
)
from components.reporting.published import read_published
from tests.components.reporting.results import metrics, sweep_metrics


def runs() -> list[MethodRun]:
    """Two seeds of one method, one of another that answers nothing, and the base."""
    found = [
        method_run("STF, 4 tokens", seed, sweep_metrics("stf", 4), {"train": 1.5})
        for seed in (0, 1)
    ]
    changed = (
        found[1].scores["short_answer"].model_copy(update={"value": 0.6, "low": 0.5, "high": 0.65})
    )
    found[1] = found[1].model_copy(update={"scores": found[1].scores | {"short_answer": changed}})
    embedder = sweep_metrics("e5v", 1)
    embedder["compressed"] = {
        key: embedder["compressed"][key] for key in ("retrieval", "compositionality")
    }
    hollow = method_run("FastV, 9 tokens", 0, sweep_metrics("fastv", 9, is_stored=False), {})
    return [*reference_runs(0, metrics()), *found, method_run("E5-V", 0, embedder, {}), hollow]


def test_scores_are_flat_and_leave_out_kinds() -> None:
    found = flat_scores(metrics()["compressed"])
    assert sorted(found) == [
        "captioning.bleu_4",
        "captioning.cider",
        "compositionality.swap_object",
        "existence",
        "existence_f1",
        "hard.existence",
        "hard.existence_f1",
        "hard.short_answer",
        "retrieval.image_to_text.recall_at_1",
        "retrieval.image_to_text.recall_at_10",
        "retrieval.text_to_image.recall_at_1",
        "retrieval.text_to_image.recall_at_10",
        "short_answer",
    ]
    assert found["retrieval.text_to_image.recall_at_1"].model_dump() == {
        "value": 0.5,
        "low": 0.4,
        "high": 0.5,
    }


def test_rows_come_back_from_a_file_and_a_missing_file_has_none(tmp_path: Path) -> None:
    assert read_runs(tmp_path / "methods.json") == []
    rows = ", ".join(run.model_dump_json() for run in runs())
    (tmp_path / "methods.json").write_text(f'{{"rows": [{rows}]}}')
    assert read_runs(tmp_path / "methods.json") == runs()


def test_seeds_of_a_run_are_one_group_with_mean_lowest_and_highest() -> None:
    groups = {group.name: group for group in group_runs(runs())}
    assert list(groups) == [
        "all image tokens",
        "downsampled picture, 4 tokens",
        "no picture",
        "STF, 4 tokens",
        "E5-V",
        "FastV, 9 tokens",
    ]
    stf = groups["STF, 4 tokens"]
    assert stf.label == "STF"
    assert stf.scores["short_answer"] == pytest.approx((0.7, 0.6, 0.8, 2))
    assert groups["E5-V"].label == "E5-V"


def test_tables_stand_beside_those_of_the_paper_and_leave_out_who_has_no_score() -> None:
    tables = {table.title: table for table in method_tables(group_runs(runs()), read_published())}
    assert [[it.table for it in table.published] for table in tables.values()] == [
        [1],
        [],
        [2, 11],
        [3, 9],
        [4, 10],
    ]
    understanding, retrieval = (
        [group.name for group, _ in tables[it].rows] for it in ("Understanding", "Retrieval")
    )
    assert "E5-V" not in understanding
    # the base was not asked to search
    assert retrieval == ["STF, 4 tokens", "E5-V", "FastV, 9 tokens"]
    cells = next(cells for group, cells in tables["Understanding"].rows if group.label == "STF")
    assert cells[0] is not None
    assert cells[0].mean == pytest.approx(0.7)
    assert cells[1] is None  # nothing was read


def test_costs_are_of_methods_with_mean_seconds_where_they_are_known() -> None:
    found = runs()
    found[4] = found[4].model_copy(update={"seconds": {"train": 2.5, "compress": 7.0}})
    rows = method_cost_rows(group_runs(found))
    assert [group.name for group, _ in rows] == ["STF, 4 tokens", "E5-V", "FastV, 9 tokens"]
    train, compress, evaluate = rows[0][1]
    assert train == (2.0, 1.5, 2.5, 2)
    assert compress == (7.0, 7.0, 7.0, 1)
    assert evaluate is None


def test_without_runs_the_tables_of_the_paper_stand_alone() -> None:
    assert all(not table.rows and table.published for table in method_tables([], read_published()))


def test_the_hard_subset_is_a_table_of_its_own_when_runs_have_it() -> None:
    title = "Understanding, on the questions that a downsampled picture gets wrong"
    tables = {table.title: table for table in method_tables(group_runs(runs()), read_published())}
    hard = tables[title]
    assert hard.columns == tables["Understanding"].columns
    cells = next(cells for group, cells in hard.rows if group.label == "STF")
    means = [cell and cell.mean for cell in cells]
    assert means == [pytest.approx(0.8 / 3), None, pytest.approx(0.8 / 4), None, None, None]

    # runs that were written before there was such a subset
    older = []
    for run in runs():
        scores = {key: score for key, score in run.scores.items() if not key.startswith("hard.")}
        older.append(run.model_copy(update={"scores": scores}))
    assert title not in {
        table.title for table in method_tables(group_runs(older), read_published())
    }


def test_downsampled_pictures_are_a_row_for_each_number_of_tokens_and_can_be_stored() -> None:
    (row,) = (run for run in reference_runs(0, metrics()) if run.method == "downsampled")
    assert (row.run, row.is_stored, row.bytes_per_picture) == (
        "downsampled picture, 4 tokens",
        True,
        1024,
    )
    (group,) = group_runs([row])
    assert group.label == "downsampled picture"
