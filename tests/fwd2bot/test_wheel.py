"""The wheel holds all that runs, and works in another folder than the repository."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.repository import copy_tracked, tracked

PACKAGES = ("fwd2bot", "flows", "components")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would pack what an earlier build left in build/."""
    source = tmp_path_factory.mktemp("source")
    copy_tracked(source, *PACKAGES, "pyproject.toml", "README.md", "LICENSE")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", source / "dist"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    return next((source / "dist").glob("*.whl"))


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    missing = set(tracked(*PACKAGES)) - set(names)
    assert not missing
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == set(PACKAGES)


def test_wheel_works_elsewhere(wheel: Path, project: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    own = environment / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python, command = environment / "bin/python", environment / "bin/fwd2bot"
    install = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    # without PYTHONPATH, by which the repository would be found instead
    outside = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    subprocess.run([python, "-m", "pip", *install], env=outside, check=True)

    code = "import fwd2bot; print(fwd2bot.__file__, len(fwd2bot.TokenStore.open('store')))"
    done = subprocess.run(
        [python, "-c", code], cwd=project, env=outside, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{own}/fwd2bot/__init__.py 5\n"
    asked = [command, "ask", "what?", "--image-id", "1.png", "--store", "store", "--json"]
    done = subprocess.run(asked, cwd=project, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"question": "what?"' in done.stdout
