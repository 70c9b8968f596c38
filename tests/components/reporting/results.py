"""What the stages write, made up: five systems, two pictures, a few questions."""

from typing import Any

from components.reporting.metric_tables import SYSTEMS

ACCURACY = {
    "compressed": 0.8,
    "uncompressed": 0.9,
    "average_pooled": 0.5,
    "downsampled": 0.45,
    "blind": 0.4,
}
TOKENS = {"compressed": 4, "uncompressed": 36, "average_pooled": 4, "downsampled": 4, "blind": 0}


def score(value: float, name: str = "accuracy") -> dict[str, float]:
    return {name: value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1), "count": 20}


def recalls(count: int) -> dict[str, float]:
    found: dict[str, float] = {"count": count}
    for k, value in ((1, 0.5), (5, 0.75), (10, 1.0)):
        found |= {
            f"recall_at_{k}": value,
            f"recall_at_{k}_low": value - 0.1,
            f"recall_at_{k}_high": value,
        }
    return found


def precisions() -> dict[str, float]:
    found = {"count": 24, "chance": 0.125, "best_precision_at_10": 0.9}
    for k, value in ((1, 0.7), (10, 0.4)):
        found |= {
            f"precision_at_{k}": value,
            f"precision_at_{k}_low": value - 0.1,
            f"precision_at_{k}_high": value + 0.1,
        }
    return found


def metrics() -> dict[str, Any]:
    """As results/metrics.json."""
    found: dict[str, Any] = {
        system: {
            "short_answer": score(value),
            "short_answer_by_kind": {"colour": score(value), "count": score(value / 2)},
            "existence": score(value / 2),
            "existence_by_kind": {"random": score(value / 2)},
            "existence_f1": score(0.3, "f1"),
            "captioning": {"cider": score(value, "score"), "bleu_4": score(value, "score")},
            "compositionality": {"swap_object": score(value)},
            "hard": {
                "short_answer": score(value / 3),
                "short_answer_by_kind": {"colour": score(value / 3)},
                "existence": score(value / 4),
                "existence_f1": score(0.2, "f1"),
            },
            "missing": {"questions": 0, "captions": 0, "pairs": 0},
        }
        for system, value in ACCURACY.items()
    }
    found["compressed"]["retrieval"] = {"image_to_text": recalls(10), "text_to_image": recalls(50)}
    found["compressed"]["partial_queries"] = {
        "one_object": precisions(),
        "two_object": precisions(),
    }
    bytes_per_picture = {system: count * 256 for system, count in TOKENS.items()}
    flops = {system: 1_000_000 * (1 + count) for system, count in TOKENS.items()}
    found["costs"] = {
        "visual_tokens": TOKENS,
        "bytes_per_picture": bytes_per_picture,
        "flops_per_picture": flops,
        "flops_per_question": flops,
    }
    return found


def sweep_metrics(name: str, tokens: int, is_stored: bool = True) -> dict[str, Any]:
    """As results/metrics.json of a run of a sweep, which asks nobody but the method."""
    found = {key: metrics()[key] for key in ("compressed", "costs")}
    found["costs"] = {
        "visual_tokens": TOKENS | {"compressed": tokens},
        "bytes_per_picture": {system: 256 * count for system, count in TOKENS.items()}
        | {"compressed": 256 * tokens if is_stored else None},
        "flops_per_picture": dict.fromkeys(TOKENS, 2_000_000),
        "flops_per_question": {system: 1_000_000 * (1 + count) for system, count in TOKENS.items()},
    }
    return found | {
        "method": {"name": name, "tuning": "trained", "num_tokens": tokens, "is_stored": is_stored}
    }


def answer(
    system: str, question_id: str, text: str | None, right: bool, **changes: Any
) -> dict[str, Any]:
    """As a line of answers.jsonl."""
    return {
        "system": system,
        "question_id": question_id,
        "image_id": "picture 1",
        "benchmark": "short_answer",
        "kind": "colour",
        "group": None,
        "question": "what colour?",
        "references": ["red"],
        "answer": text,
        "score": float(right),
    } | changes


def answers(question_id: str, right: dict[str, bool], **changes: Any) -> list[dict[str, Any]]:
    """All systems' answers to one question."""
    return [
        answer(
            system,
            question_id,
            "red" if right.get(system) else "blue",
            bool(right.get(system)),
            **changes,
        )
        for system in SYSTEMS
    ]


def captions(
    image_id: str, compressed: str | None = "a red circle", **changes: Any
) -> list[dict[str, Any]]:
    """All systems' captions of one picture."""
    said = dict.fromkeys(SYSTEMS, "a red square") | {"compressed": compressed}
    row = {
        "image_id": image_id,
        "references": [f"reference {number} of {image_id}" for number in range(5)],
    }
    return [row | {"system": system, "caption": text} | changes for system, text in said.items()]
