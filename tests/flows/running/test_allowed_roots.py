"""Roots that links may lead into: the named ones, and DVC's cache wherever it is."""

from pathlib import Path

import pytest

from flows.running.allowed_roots import allowed_roots

CONFIG = ".dvc/config"


def test_named_roots_are_folders_and_may_begin_with_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "a.txt").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert allowed_roots(["~/hub", "hub", str(tmp_path / "hub")]) == (str(tmp_path / "hub"),) * 3
    for name in ("nowhere", "a.txt", "s3://bucket/hub"):
        with pytest.raises(ValueError, match=f"allowed_roots: {name}: there is no such folder"):
            allowed_roots([name])


def test_the_cache_of_dvc_is_a_root_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, shared = tmp_path / "repository", tmp_path / "shared cache"
    for folder in (repository / ".dvc", repository / ".git", repository / "sub", shared):
        folder.mkdir(parents=True)
    monkeypatch.chdir(repository / "sub")
    (repository / CONFIG).write_text("[core]\n    analytics = false\n")
    assert allowed_roots([]) == ()  # nothing is cached yet
    (repository / ".dvc/cache").mkdir()
    assert allowed_roots([]) == (str(repository / ".dvc/cache"),)
    (repository / CONFIG).write_text("[cache]\n    dir = ../../shared cache\n")
    assert allowed_roots([]) == (str(shared),)
