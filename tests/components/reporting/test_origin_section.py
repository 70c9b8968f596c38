"""Origin is all that the artifacts say, under dotted names."""

from components.reporting.origin_section import leaves, origin_groups


def test_leaves_are_dotted_names_with_values_in_order() -> None:
    assert list(leaves({"a": {"b": 1, "c": {"d": True}}, "e": (1, 2)})) == [
        ("a.b", "1"),
        ("a.c.d", "True"),
        ("e", "1, 2"),
    ]


def test_groups_hold_hashes_counts_and_versions() -> None:
    compressor = {"base_model": "tiny", "compressor": {"rank": 8}, "versions": {"torch": "1"}}
    store = {
        "model": {"base_weights_sha256": "b" * 64},
        "preprocessing": {"size": 96},
        "codec": "float16",
        "schema_version": 1,
        "compute": {"dtype": "float32"},
        "libraries": {"numpy": "2"},
    }
    manifest = {
        "provenance": store,
        "rows_in": 9,
        "rows_kept": 8,
        "rows_rejected": {"truncated": 1},
        "files": [{"name": "part-00000.parquet", "sha256": "f" * 64}],
    }
    groups = origin_groups(compressor, manifest)
    assert groups["Model"] == [("base model", "tiny"), ("base_weights_sha256", "b" * 64)]
    assert ("rejected: truncated", "1") in groups["Store"]
    assert ("part-00000.parquet, SHA-256", "f" * 64) in groups["Store"]
