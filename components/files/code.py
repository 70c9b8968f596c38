"""Code of a run: the modules of this project that it imports, found without running them.

Times of files tell nothing: a checkout, a stash or a copy gives new ones. Nor is a folder an
answer: it holds modules that the run never sees, and others that it needs lie elsewhere.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path

from components.files.atomic import sha256_of

ROOT = Path(__file__).parents[2]  # where `components` and `flows` lie
PACKAGES = ("components", "flows")


def code_sha256(modules: Iterable[str], without: Collection[str] = (), root: Path = ROOT) -> str:
    """Return the SHA-256 of the names and contents of modules and of all that they import."""
    files = imported_files(modules, without, root)
    listing = [(name, sha256_of(files[name])) for name in sorted(files)]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def imported_files(
    modules: Iterable[str], without: Collection[str] = (), root: Path = ROOT
) -> dict[str, Path]:
    """Return {module: source file} of modules and of all of this project that they import.

    Imports in functions count. Modules of `without` are not entered. Raises ValueError for a
    module that is not there.
    """
    found: dict[str, Path] = {}
    waiting = list(chain.from_iterable(map(_with_packages, modules)))
    while waiting:
        module = waiting.pop()
        if module in found or module in without:
            continue

        path = _source(module, root)
        if path is None:
            raise ValueError(f"{module}: there is no such module below {root}")
        found[module] = path

        # what is no module here, a library or a function, has no source
        for name in _imports(module, path):
            if _source(name, root) is not None:
                waiting += _with_packages(name)
    return found


def _with_packages(module: str) -> list[str]:
    """Return a module and the packages it lies in, whose `__init__` runs when it is imported."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _source(module: str, root: Path) -> Path | None:
    """Return the file of a module of this project; None for libraries, functions and classes."""
    if module.split(".")[0] not in PACKAGES:
        return None
    place = root.joinpath(*module.split("."))
    candidates = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((path for path in candidates if path.is_file()), None)


def _imports(module: str, path: Path) -> Iterator[str]:
    """Yield the names that a file imports and that may be modules: `from a import b`: a, a.b."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        if isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield base
            for alias in node.names:
                yield f"{base}.{alias.name}"
