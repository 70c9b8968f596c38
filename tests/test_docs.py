"""What the documents name exists: files, functions, parameters and links."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

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


def tree_files(text: str) -> set[str]:
    """The Python files of the README's tree: folders are the lines that end in `/`, two spaces deeper per level."""
    folders: list[str] = []
    found: set[str] = set()
    for line in text.splitlines():
        if match := TREE_LINE.match(line):
            folders = [*folders[: len(match[1]) // 2], match[2]]
            if match[2].endswith(".py"):
                found.add("".join(folders))
    return found


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


def test_tree_of_the_readme_has_a_line_for_every_file() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text.split("## What is where")[1].split("```")[1]
    files = subprocess.run(
        ["git", "ls-files", "flows", "components"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    tracked = {
        name
        for name in files.stdout.split()
        if name.endswith(".py") and not name.endswith("__init__.py")
    }
    assert not sorted(tracked - tree_files(tree)), "add a line for these to the tree in README.md"
    named = {name for name in tree_files(tree) if name.startswith(("flows/", "components/"))}
    assert not sorted(name for name in named if not (ROOT / name).is_file()), (
        "remove these from the tree in README.md"
    )
