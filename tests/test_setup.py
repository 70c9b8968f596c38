"""What a fresh clone installs and what the repository may hold."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DIRECT = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
DEVELOPMENT = [Requirement(line) for line in PROJECT["project"]["optional-dependencies"]["dev"]]
CONSTRAINTS = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
]
PINS = [Requirement(line) for line in CONSTRAINTS]
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(home|Users|root|work|mnt|scratch|private)/[\w.-]+/")


def applicable(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def pinned_versions() -> dict[str, str]:
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in PINS
        if applicable(pin)
    }


def tracked_files() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def tracked_texts() -> list[tuple[Path, str]]:
    contents = [(path, path.read_bytes()) for path in tracked_files()]
    return [(path, data.decode("utf-8")) for path, data in contents if b"\0" not in data[:8192]]


def imported_packages(folder: str) -> set[str]:
    """Return the top-level packages that a folder imports: neither standard library nor own."""
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module)
    return (
        {name.split(".")[0] for name in names}
        - set(sys.stdlib_module_names)
        - {"fwd2bot", "flows", "components", "ruamel"}
    )


def test_constraints_are_exact_pins_without_addresses() -> None:
    assert not [
        line for line in CONSTRAINTS if "://" in line or "@" in line or line.startswith("-")
    ]
    assert not [
        line for line in CONSTRAINTS if not re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .+)?", line)
    ]


def test_constraints_hold_no_build_of_one_machine() -> None:
    assert not [
        line
        for line in CONSTRAINTS
        if "+" in line or re.match(r"(triton|cuda-|nvidia-(?!ml-py))", line)
    ]


@pytest.mark.parametrize(
    "requirement", DIRECT + DEVELOPMENT, ids=lambda requirement: requirement.name
)
def test_direct_dependency_is_pinned_inside_its_range_and_installed_as_pinned(
    requirement: Requirement,
) -> None:
    pinned = pinned_versions()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned)
    assert importlib.metadata.version(requirement.name).split("+")[0] == pinned


def test_every_transitive_dependency_is_pinned() -> None:
    pinned, missing, queue = (
        pinned_versions(),
        set(),
        [(requirement, set()) for requirement in DIRECT + DEVELOPMENT],
    )
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        requirement, extras = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, key := frozenset(requirement.extras)) in seen or not any(
            requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            for extra in extras | {""}
        ):
            continue
        seen.add((name, key))
        missing |= {name} - pinned.keys()
        for line in importlib.metadata.requires(name) or []:
            queue.append((Requirement(line), set(key)))
    assert len(seen) > 100
    assert not sorted(missing)


def test_every_pinned_package_installs_on_the_oldest_python_that_is_promised() -> None:
    """Debian 12 has Python 3.11.2: a pin that wants a later 3.11 ends its `make install`."""
    (promised,) = SpecifierSet(PROJECT["project"]["requires-python"])
    oldest, pinned = f"{promised.version}.0", pinned_versions()
    for distribution in importlib.metadata.distributions():
        wanted = distribution.metadata["Requires-Python"]
        name = canonicalize_name(distribution.metadata["Name"])
        assert name not in pinned or not wanted or oldest in SpecifierSet(wanted), (name, wanted)


def test_imports_and_declared_dependencies_are_the_same() -> None:
    distributions = importlib.metadata.packages_distributions()
    imported = {
        canonicalize_name(distributions[name][0])
        for folder in ("fwd2bot", "flows", "components")
        for name in imported_packages(folder)
    }
    declared = {canonicalize_name(requirement.name) for requirement in DIRECT}
    # a namespace package; the program that runs the stages
    by_dvc_or_import_name_only = {"ruamel-yaml", "dvc"}
    assert not sorted(imported - declared)
    assert not sorted(declared - imported - by_dvc_or_import_name_only)


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    hits = [
        (path.name, found[0])
        for path, text in tracked_texts()
        if (found := MACHINE_PATH.search(text))
    ]
    assert not hits


def test_no_tracked_file_is_a_pickle_or_very_large() -> None:
    assert not [
        path.name
        for path in tracked_files()
        if path.suffix in {".pt", ".pth", ".bin", ".pkl", ".ckpt"}
    ]
    assert not [path.name for path in tracked_files() if path.stat().st_size > 20 * 2**20]


def test_opt_outs_hold_without_make() -> None:
    names = ("RAY_USAGE_STATS_ENABLED", "GX_ANALYTICS_ENABLED")
    script = f"import flows, os; print(*map(os.environ.get, {names}))"
    environment = {"PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "False"]


@pytest.mark.parametrize(
    ("variable", "expected"), [("RAY_ADDRESS", "None"), ("RAY_RAYLET_PID", "None"), ("X", "0")]
)
def test_settings_of_a_laptop_stay_out_of_drivers_and_workers_of_a_cluster(
    variable: str, expected: str
) -> None:
    script = "import flows, os; print(os.environ.get('RAY_TRAIN_ENABLE_PREEMPTION_WATCHER'))"
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), variable: "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected


def test_dvc_neither_reports_nor_looks_for_updates() -> None:
    config = (ROOT / ".dvc/config").read_text()
    assert "analytics = false" in config
    assert "check_update = false" in config


@pytest.mark.parametrize(
    "path", ["data/raw/x", "data/curated/x", "models/compressor/x", "dvclive/train/x", ".venv/x"]
)
def test_stage_outputs_are_ignored_by_git(path: str) -> None:
    assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "path",
    [
        "models/tiny-llava/config.json",
        *("results/metrics.json", "results/headline.json", "results/codecs.json"),
        *("params.yaml", "dvc.lock"),
    ],
)
def test_results_and_base_model_are_not_ignored_by_git(path: str) -> None:
    assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 1
