"""Origin of the numbers: model, settings and versions, as the artifacts record them."""

from collections.abc import Iterator, Mapping
from typing import Any

Entries = list[tuple[str, str]]  # (name, value)


def origin_groups(compressor: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Entries]:
    """Return groups of entries, from the compressor's config.json and the manifest of the store."""
    store = manifest["provenance"]

    return {
        "Model": [("base model", compressor["base_model"]), *leaves(store["model"])],
        "Compressor": list(leaves(compressor["compressor"])),
        "Preprocessing": list(leaves(store["preprocessing"])),
        "Store": store_entries(manifest),
        "Versions that trained": list(leaves(compressor["versions"])),
        "Versions that compressed": list(leaves(store["libraries"])),
    }


def store_entries(manifest: Mapping[str, Any]) -> Entries:
    """Return counts of pictures, hashes of files, and the format of the store."""
    store = manifest["provenance"]
    entries = [
        ("pictures in", str(manifest["rows_in"])),
        ("pictures kept", str(manifest["rows_kept"])),
    ]

    # as many rows as there are reasons and files
    for reason, count in manifest["rows_rejected"].items():
        entries.append((f"rejected: {reason}", str(count)))
    for file in manifest["files"]:
        entries.append((f"{file['name']}, SHA-256", file["sha256"]))

    entries += [("codec", store["codec"]), ("schema version", str(store["schema_version"]))]
    return entries + list(leaves(store["compute"]))


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of nested mappings with their dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            is_list = isinstance(value, list | tuple)
            yield prefix + key, ", ".join(map(str, value)) if is_list else str(value)
