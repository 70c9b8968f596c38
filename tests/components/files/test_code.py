"""The code of a run: found as Python finds it, and known by what it says."""

import os
import shutil
from pathlib import Path

import grimp
import pytest

from components.files.code import code_sha256, imported_files

MODULES = {
    "components/__init__.py": "",
    "components/one.py": "import json\nfrom components.two import value\n",
    "components/two.py": (
        "def late():\n    from components.parts import three\n    return three\nvalue = 1\n"
    ),
    "components/parts/__init__.py": "from . import four\n",
    "components/parts/three.py": "from ..two import value as again\n",
    "components/parts/four.py": "import os.path, components.parts.three\n",
    "components/stranger.py": "from components.one import late\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_imports_are_found_in_functions_packages_and_by_their_distance(root: Path) -> None:
    found = imported_files(["components.one"], root=root)
    assert {path.relative_to(root).as_posix() for path in found.values()} == set(MODULES) - {
        "components/stranger.py"
    }
    assert sorted(imported_files(["components.one"], without=["components.two"], root=root)) == [
        "components",
        "components.one",
    ]
    with pytest.raises(ValueError, match="there is no such module"):
        imported_files(["components.nine"], root=root)


@pytest.mark.parametrize(
    "entry",
    [
        "flows.train",
        "flows.pretrain",
        "flows.workers.compress_worker",
        "components.curation.pieces",
    ],
)
def test_they_are_those_that_another_library_finds(entry: str) -> None:
    graph = grimp.build_graph("flows", "components", cache_dir=None)
    expected = {entry, *graph.find_upstream_modules(entry)}
    expected |= {
        ".".join(name.split(".")[:count])
        for name in expected
        for count in range(1, name.count(".") + 1)
    }
    assert set(imported_files([entry])) >= expected
    # packages run their __init__, which imports in its turn
    families = {name for name in graph.modules if name.startswith("components.model.families")}
    theirs = {module for name in families for module in graph.find_upstream_modules(name)}
    assert set(imported_files([entry])) - expected <= families | theirs


def test_times_and_places_do_not_count_and_contents_do(root: Path, tmp_path: Path) -> None:
    first = code_sha256(["components.one"], root=root)
    for path in root.rglob("*.py"):
        os.utime(path, (1, 1))
    (root / "components/stranger.py").write_text("changed = True\n")
    shutil.copytree(root / "components", tmp_path / "elsewhere/components")
    assert code_sha256(["components.one"], root=root) == first
    assert code_sha256(["components.one"], root=tmp_path / "elsewhere") == first
    found = {first}
    for name in sorted(set(MODULES) - {"components/stranger.py"}):
        path = root / name
        before = path.stat()
        path.write_text(f"{path.read_text()}#")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        found.add(code_sha256(["components.one"], root=root))
    assert len(found) == len(MODULES)
