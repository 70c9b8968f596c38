"""What the documents name exists: files, functions, parameters and links."""

import ast
import re
import subprocess
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.reporting.seeds_section import read_seeds, seed_rows, seeds_markdown

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"`([^`\n]+)`")
PYTHON_FILE = re.compile(r"(?:flows|components|tests|benchmarks)/[\w/]+\.py")
TREE_LINE = re.compile(r"^( *)([\w./-]+) {2,}\S")


def names(document: Path, pattern: str) -> list[re.Match[str]]:
    """Matches of a pattern that are a whole piece of inline code."""
    return [
        match
        for code in CODE.findall(document.read_text())
        if (match := re.fullmatch(pattern, code))
    ]


@cache
def definitions(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


def has_key(tree: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def tree_folders(text: str) -> set[str]:
    """Return the folders of a drawn tree: lines that end in `/`, two spaces deeper per level."""
    above: list[str] = []
    found: set[str] = set()
    for line in text.splitlines():
        match = TREE_LINE.match(line)
        if match and match[2].endswith("/"):
            above = [*above[: len(match[1]) // 2], match[2]]
            found.add("".join(above))
    return found


def folders_of_code(*places: str) -> set[str]:
    """Return the folders with tracked Python files directly below some places, and the places."""
    files = subprocess.run(
        ["git", "ls-files", *places], cwd=ROOT, capture_output=True, check=True, text=True
    )
    parents = {Path(name).parts[:-1] for name in files.stdout.split() if name.endswith(".py")}
    return {"/".join(parts[:2]) + "/" for parts in parents}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    assert not [
        link for link in links if "://" not in link and not (document.parent / link).exists()
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_files_that_are_named_exist(document: Path) -> None:
    assert not sorted(
        name
        for name in set(PYTHON_FILE.findall(document.read_text()))
        if not (ROOT / name).is_file()
    )


def test_functions_that_are_named_exist() -> None:
    named = [match for document in DOCUMENTS for match in names(document, r"(\S+\.py):(\w+)")]
    assert len(named) > 30
    assert not [match[0] for match in named if match[2] not in definitions(ROOT / match[1])]


def test_parameters_that_are_named_exist() -> None:
    params = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    section = "|".join(params)
    named = [
        match[1]
        for document in DOCUMENTS
        for match in names(document, rf"((?:{section})\.[a-z_.]+)(?:=.*)?")
    ]
    named += re.findall(
        rf"-S '?((?:{section})\.[\w.]+)=", "\n".join(path.read_text() for path in DOCUMENTS)
    )
    assert len(named) > 40
    parameters = {name for name in named if not name.endswith((".py", ".json", ".html"))}
    assert not sorted(name for name in parameters if not has_key(params, name))


def test_tree_of_the_readme_has_a_line_for_every_folder_at_the_top() -> None:
    tree = (ROOT / "README.md").read_text().split("## What is where")[1].split("```")[1]
    listed = subprocess.run(
        ["git", "ls-tree", "-d", "--name-only", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    folders = {f"{name}/" for name in listed.stdout.split() if not name.startswith(".")}
    assert tree_folders(tree) == folders


def test_tree_of_the_architecture_has_a_line_for_every_folder_of_code() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    tree = text.split("## The layers, and what lies in each folder")[1].split("```")[1]
    assert tree_folders(tree) == folders_of_code("fwd2bot", "flows", "components")


def test_readme_has_the_scores_over_seeds_that_were_measured() -> None:
    """Every row of its table is one that `make seeds` prints; rows may be left out."""
    seeds = read_seeds(ROOT / "results/seeds.json")
    if not seeds:
        pytest.skip("results/seeds.json: `make seeds` has not run")

    head, _, *measured = seeds_markdown(seed_rows(seeds)).splitlines()
    lines = (ROOT / "README.md").read_text().splitlines()
    assert head in lines, "copy the table that `make seeds` prints into README.md"
    rows = list(takewhile(lambda line: line.startswith("|"), lines[lines.index(head) + 2 :]))
    assert rows
    assert not [row for row in rows if row not in measured]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_outside_tables_have_at_most_100_columns(document: Path) -> None:
    is_code = False
    long = []
    for number, line in enumerate(document.read_text().splitlines(), start=1):
        is_code ^= line.lstrip().startswith("```")
        text = re.sub(r"\]\([^)]*\)|https?://\S+|`[^`]+`", "", line)  # these cannot be broken
        if not is_code and not line.lstrip().startswith("|") and len(text) > 100:
            long.append(number)
    assert not long


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link_and_asks_nothing_of_the_network(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=\"?([^\" >]+)", page.read_text()
        )
        assert not [place for place in loaded if "://" in place]
