"""The code that a run is made of: the modules of this project that it imports, found without running them.

Times of files tell nothing: a checkout, a stash or a copy gives new ones. Nor is a folder an
answer: it holds modules that the run never sees, and others that it needs lie elsewhere.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from components.files.atomic import sha256_of

ROOT = Path(__file__).parents[2]  # where `components` and `flows` lie
PACKAGES = ("components", "flows")


def code_sha256(modules: Iterable[str], without: Collection[str] = (), root: Path = ROOT) -> str:
    """SHA-256 of the names and contents of modules and of all of this project that they import; of no path or time."""
    files = imported_files(modules, without, root)
    return hashlib.sha256(
        json.dumps([(name, sha256_of(files[name])) for name in sorted(files)]).encode()
    ).hexdigest()


def imported_files(
    modules: Iterable[str], without: Collection[str] = (), root: Path = ROOT
) -> dict[str, Path]:
    """{module: source file} of modules and of all of this project that they import, at their head or in a function.

    Modules of `without` are not entered. Raises ValueError for a module that is not there.
    """
    found: dict[str, Path] = {}
    waiting = [name for module in modules for name in _with_packages(module)]
    while waiting:
        module = waiting.pop()
        if module in found or module in without:
            continue

        path = _source(module, root)
        if path is None:
            raise ValueError(f"{module}: there is no such module below {root}")
        found[module] = path
        named = (name for name in _imports(module, path) if _source(name, root) is not None)
        waiting += [above for name in named for above in _with_packages(name)]
    return found


def _with_packages(module: str) -> list[str]:
    """A module and the packages it lies in, whose `__init__` runs when it is imported."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _source(module: str, root: Path) -> Path | None:
    """The file of a module of this project; None for anything else, such as a function in one."""
    if module.split(".")[0] not in PACKAGES:
        return None
    place = root.joinpath(*module.split("."))
    candidates = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((path for path in candidates if path.is_file()), None)


def _imports(module: str, path: Path) -> Iterator[str]:
    """Everything that could be a module among what a file imports: of `from a import b`, a and a.b."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
