"""What the paper prints in its tables of compared methods (published.yaml), apart from what was measured here."""

from pathlib import Path

from ruamel.yaml import YAML

from components.params import Params

PATH = Path(__file__).with_name("published.yaml")
Cell = str | int | float | None


class PublishedTable(Params):
    """One table of the paper. A row is a method, what `given` names of it, and a number for every column."""

    table: int
    title: str
    given: str | None  # tokens, or parameters in billions
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Published(Params):
    """All of them, with the work that they stand in."""

    source: str
    tables: tuple[PublishedTable, ...]


def read_published() -> Published:
    """Raises ValueError for a row that has not a cell for every column."""
    published = Published.model_validate(
        YAML(typ="safe", pure=True).load(PATH.read_text(encoding="utf-8")), strict=False
    )
    for table in published.tables:
        for row in table.rows:
            if len(row) != 2 + len(table.columns):
                raise ValueError(
                    f"{PATH.name}: table {table.table}, {row[0]}: {len(row) - 2} numbers, not one per column"
                )
    return published


def published_markdown(published: Published) -> str:
    """The tables for a document, each under a line that says whose numbers these are."""
    return "\n\n".join(_table_markdown(published.source, table) for table in published.tables)


def _table_markdown(source: str, table: PublishedTable) -> str:
    head = ["method", *([table.given] if table.given else []), *table.columns]
    rows = [[row[0], *row[1 if table.given else 2 :]] for row in table.rows]
    lines = [f"{source}, Table {table.table}: {table.title}; published, not measured here.", ""]
    lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += [
        "| " + " | ".join("–" if cell is None else str(cell) for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines + [f"\n{note}" for note in table.notes])
