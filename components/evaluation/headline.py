"""The scores of a run in about a dozen numbers, flat, out of all metrics."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from components.evaluation.recall import MAXSIM
from components.evaluation.systems import COMPRESSED, UNCOMPRESSED

# name -> keys in results/metrics.json, from the system down
SCORES = {
    "short_answers": ("short_answer", "accuracy"),
    "words": ("word_reading", "accuracy"),
    "existence": ("existence", "accuracy"),
    "relations": ("relations", "accuracy"),
    "multiple_choice": ("multiple_choice", "accuracy"),
    "unanswerable": ("unanswerable", "accuracy"),
    "cider": ("captioning", "cider", "score"),
    "text_to_image_r1": ("retrieval", "text_to_image", "recall_at_1"),
    "image_to_text_r1": ("retrieval", "image_to_text", "recall_at_1"),
    "swapped_attributes": ("compositionality", "swap_attribute", "accuracy"),
    "swapped_objects": ("compositionality", "swap_object", "accuracy"),
    "replaced_relations": ("compositionality", "replace_relation", "accuracy"),
    "one_object_p1": ("partial_queries", "one_object", "precision_at_1"),
    "one_object_p10": ("partial_queries", "one_object", "precision_at_10"),
    "two_object_p1": ("partial_queries", "two_object", "precision_at_1"),
}
PREFIXES = {COMPRESSED: "", UNCOMPRESSED: "base_"}  # of the names, by system
NAMES = frozenset(map("".join, product(PREFIXES.values(), SCORES)))


def headline_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of the compressor, and of its base with all image tokens, by name.

    What embeddings decide is by MaxSim where that was scored, as a search with `--maxsim` is. A
    score that the data or the method do not have is left out.
    """
    found = {}
    for system, prefix in PREFIXES.items():
        for name, (part, *keys) in SCORES.items():
            parts = metrics.get(system, {})
            value = parts.get(f"{part}_{MAXSIM}", parts.get(part))
            for key in keys:
                value = value.get(key) if value else None
            if value is not None:
                found[prefix + name] = value
    return found
