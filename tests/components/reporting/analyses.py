"""Results of `inspect`, made up: two pictures, four image tokens, two summary tokens."""

from typing import Any

from tests.components.reporting.results import score

SIDE, LAYERS, TOKENS, STEPS = 2, 3, 2, 4
PARTS = ("norms", "query_attention", "answer_attention", "base_attention", "prefixes", "masks")


def found(value: Any) -> dict[str, Any]:
    return {"found": value, "reason": None}


def difference(value: float, low: float, high: float) -> dict[str, float]:
    return {"difference": value, "low": low, "high": high, "count": 20}


def weights(rows: int, columns: int, scale: float) -> list[list[float]]:
    """Different numbers, a row of which sums to less than 1."""
    return [
        [scale * (1 + row + 2 * column) / 100 for column in range(columns)] for row in range(rows)
    ]


def analysis(text: str = "harmless") -> dict[str, Any]:
    """As inspection.json; everything that others wrote is `text`."""
    queries = {"layers": weights(LAYERS, SIDE**2, 1), "queries": weights(TOKENS, SIDE**2, 2)}
    answer = {
        "layers": weights(LAYERS, TOKENS, 1),
        "steps": weights(STEPS, TOKENS, 3),
        "words": [text, " b", "c", ""],
    }
    base = {"layers": weights(LAYERS, SIDE**2, 3), "caption": text}
    scores = {name: score(0.5, "score") for name in ("cider", "bleu_4", "rouge_l")}
    return {
        "num_summary_tokens": TOKENS,
        "question": text,
        "seed": 0,
        "pictures": [
            {"image_id": text, "references": [text]},
            {"image_id": "other", "references": []},
        ],
        "norms": found(
            {
                "layers": {"compression": [1.0, 2.0, 3.0], "generation": [2.0, 2.0, 2.0]},
                "linears": {
                    "compression": {"q_proj": [1.0, 2.0, 3.0]},
                    "generation": {"q_proj": [1.0, 1.0, 1.0], "o_proj": [0.5, 0.5, 0.5]},
                },
            }
        ),
        "query_attention": found({"side": SIDE, "pictures": [queries, queries]}),
        "answer_attention": found({"pictures": [answer, answer]}),
        "base_attention": found({"side": SIDE, "pictures": [base, base]}),
        "prefixes": found(
            [
                {
                    "num_tokens": count,
                    "captions": [f"{text} {count}", f"{text} of another"],
                    "scores": scores,
                }
                for count in (1, TOKENS)
            ]
        ),
        "masks": found(
            {
                "whole": score(0.8),
                "groups": [
                    {
                        "tokens": [0],
                        "accuracy": score(0.7),
                        "difference": difference(-0.1, -0.15, -0.05),
                    },
                    {
                        "tokens": [1],
                        "accuracy": score(0.81),
                        "difference": difference(0.01, -0.02, 0.03),
                    },
                ],
            }
        ),
    }


def without(*names: str, text: str = "it has none") -> dict[str, Any]:
    """The same of a method that has no such parts."""
    return analysis() | {name: {"found": None, "reason": text} for name in names}
