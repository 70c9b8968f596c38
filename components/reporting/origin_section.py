"""Where the numbers come from, by what the artifacts say of themselves."""

from collections.abc import Iterator, Mapping
from typing import Any


def provenance_groups(
    compressor: Mapping[str, Any], manifest: Mapping[str, Any]
) -> dict[str, list[tuple[str, str]]]:
    """Groups of (name, value), from the compressor's config.json and the manifest of the store."""
    store = manifest["provenance"]
    return {
        "Model": [("base model", compressor["base_model"]), *leaves(store["model"])],
        "Compressor": list(leaves(compressor["compressor"])),
        "Preprocessing": list(leaves(store["preprocessing"])),
        "Store": [
            ("pictures in", str(manifest["rows_in"])),
            ("pictures kept", str(manifest["rows_kept"])),
            *(
                ("rejected: " + reason, str(count))
                for reason, count in manifest["rows_rejected"].items()
            ),
            *((f"{file['name']}, SHA-256", file["sha256"]) for file in manifest["files"]),
            ("codec", store["codec"]),
            ("schema version", str(store["schema_version"])),
            *leaves(store["compute"]),
        ],
        "Versions that trained": list(leaves(compressor["versions"])),
        "Versions that compressed": list(leaves(store["libraries"])),
    }


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested mappings with their dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield (
                prefix + key,
                ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value),
            )
