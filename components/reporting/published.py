"""Published numbers: the paper's tables of methods (published.yaml), not measured here."""

from pathlib import Path

from ruamel.yaml import YAML

from components.params import Params

PATH = Path(__file__).with_name("published.yaml")
Cell = str | int | float | None


class PublishedTable(Params):
    """One table of the paper.

    A row has the name of the method, the size that `given` names, and a number for every column.
    """

    table: int
    title: str
    given: str | None  # tokens, or parameters in billions
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Published(Params):
    """All tables, and the work that they stand in."""

    source: str
    tables: tuple[PublishedTable, ...]


def read_published() -> Published:
    """Read published.yaml. Raises ValueError for a row that has not a cell for every column."""
    content = YAML(typ="safe", pure=True).load(PATH.read_text(encoding="utf-8"))
    published = Published.model_validate(content, strict=False)

    # a missing number would move all that follow into the wrong column
    for table in published.tables:
        for row in table.rows:
            if len(row) != 2 + len(table.columns):
                place = f"{PATH.name}: table {table.table}, {row[0]}"
                raise ValueError(f"{place}: {len(row) - 2} numbers, not one per column")
    return published


def published_markdown(published: Published) -> str:
    """Return the tables for a document, each under a line that names their source."""
    return "\n\n".join(_table_markdown(published.source, table) for table in published.tables)


def _table_markdown(source: str, table: PublishedTable) -> str:
    given = [table.given] if table.given else []
    head = ["method", *given, *table.columns]
    lines = [f"{source}, Table {table.table}: {table.title}; published, not measured here.", ""]

    # a table of Markdown; what the paper leaves out is a dash
    lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in table.rows:
        cells = [row[0], *row[1 if table.given else 2 :]]
        texts = ["–" if cell is None else str(cell) for cell in cells]
        lines.append("| " + " | ".join(texts) + " |")

    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines)
