"""Allowed roots: folders that links to pictures may lead into, by params, and DVC's cache."""

import os
from collections.abc import Sequence

from components.files.storage import is_uri


def allowed_roots(named: Sequence[str]) -> tuple[str, ...]:
    """Return absolute paths of the named folders (`~` is home) and of the cache of this repository.

    With `cache.type symlink` DVC leaves links into its cache where the files of its outputs were.
    Raises ValueError that names a root which is no folder: a misspelt one would make a reject of
    every picture.
    """
    roots = []
    for name in named:
        path = os.path.abspath(os.path.expanduser(name))
        if is_uri(name) or not os.path.isdir(path):
            raise ValueError(
                f"allowed_roots: {name}: there is no such folder; "
                "correct it in params.yaml, or leave it out"
            )
        roots.append(path)

    return (*roots, *dvc_cache())


def dvc_cache() -> tuple[str, ...]:
    """Return the cache of the DVC repository around the current folder; none outside of one."""
    from dvc.config import Config  # takes a third of a second to import, and workers import flows

    config = Config.from_cwd()
    if config.dvc_dir is None:
        return ()
    folder = os.path.abspath(config["cache"].get("dir") or os.path.join(config.dvc_dir, "cache"))
    return (folder,) if os.path.isdir(folder) else ()
