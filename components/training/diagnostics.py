"""Signs that a training run goes wrong, read from its history, each with what to do about it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from components.training.state import HistoryRow

SOLVED_SHARE = 0.01  # of the loss of guessing: a batch this easy teaches nothing more
EASY_SHARE = 0.1  # of the loss of guessing
LAG = 0.5  # recall below this share of the accuracy of answers
ALIKE = 0.9  # cosine of the two adapters' updates
IDLE_SHARE = 1e-3  # of the gradient of the other adapter


class RunSettings(NamedTuple):
    """Settings of a run that its losses and scores are judged by."""

    num_steps: int
    contrastive_batch_size: int
    contrastive_weight: float
    max_logit_scale: float


class Finding(NamedTuple):
    """One sign; a run shows each at most once."""

    name: str
    message: str


def findings(history: Sequence[HistoryRow], run: RunSettings) -> Iterator[Finding]:
    """Yield every sign in the history so far, at its first row."""
    seen: set[str] = set()
    latest: dict[str, float] = {}
    for row in history:
        if "train/alignment_loss" in row.metrics:  # a phase of its own, for one adapter
            continue
        latest |= row.metrics
        for finding in signs(row.step, latest, run):
            if finding.name not in seen:
                seen.add(finding.name)
                yield finding


def signs(step: int, metrics: Mapping[str, float], run: RunSettings) -> Iterator[Finding]:
    """Yield the signs at one moment; `metrics` are the latest of each kind."""
    guess = math.log(run.contrastive_batch_size)  # the loss of guessing
    contrastive = metrics.get("train/contrastive_loss", guess)
    is_contrastive = run.contrastive_weight > 0
    is_late = step >= run.num_steps / 2
    recall_of_texts = metrics.get("validation/recall_at_1_image_to_text", 1.0)
    recall_of_images = metrics.get("validation/recall_at_1_text_to_image", 1.0)
    recall = (recall_of_texts + recall_of_images) / 2
    accuracy = metrics.get("validation/short_answer_accuracy", 0.0)

    # search: batches too easy, or learning that does not carry over
    if is_contrastive and not is_late and contrastive < SOLVED_SHARE * guess:
        yield Finding(
            "contrastive_loss_collapsed",
            f"the contrastive loss is {contrastive:.4f} after {step} of {run.num_steps} steps: "
            f"batches of {run.contrastive_batch_size} are solved and teach nothing more; raise "
            "train.contrastive_batch_size, or cut captions shorter "
            "(train.texts.max_caption_tokens)",
        )
    if is_contrastive and is_late and contrastive < EASY_SHARE * guess and recall < LAG:
        yield Finding(
            "contrastive_batch_too_small",
            f"pairs are told apart in the batch (loss {contrastive:.3f}) but not in the "
            f"validation split (R@1 {recall:.2f}): {run.contrastive_batch_size} negatives are "
            "too few; raise train.contrastive_batch_size",
        )
    if is_late and recall < LAG * accuracy:
        reason = (
            "raise it or train.contrastive_batch_size"
            if is_contrastive
            else "without it nothing trains search"
        )
        yield Finding(
            "retrieval_lags",
            f"R@1 is {recall:.2f} where {accuracy:.2f} of the answers are right; "
            f"train.losses.contrastive_weight is {run.contrastive_weight:g}: {reason}",
        )

    # adapters: two that do the same, or one that does nothing
    if metrics.get("validation/adapter_cosine", 0.0) > ALIKE:
        yield Finding(
            "adapters_alike",
            "the updates of the two adapters have a cosine of "
            f"{metrics['validation/adapter_cosine']:.2f}: the passes do not differ; "
            "adapters.sharing: shared would do the same with half the weights",
        )
    names = ("train/gradient_norm_compression", "train/gradient_norm_generation")
    # of a compared method there may be one
    norms = [metrics[name] for name in names if name in metrics]
    if len(norms) == len(names) and max(norms) > 0 and min(norms) < IDLE_SHARE * max(norms):
        yield Finding(
            "adapter_idle",
            f"gradient norms of the adapters are {norms[0]:.2g} (compression) and {norms[1]:.2g} "
            "(generation): one of them hardly learns; look at the weights of the losses",
        )

    # numbers at their bounds
    if metrics.get("train/logit_scale", 0.0) >= 0.999 * run.max_logit_scale:
        yield Finding(
            "logit_scale_at_its_maximum",
            f"the logit scale has reached train.max_logit_scale ({run.max_logit_scale:g}); a lower "
            "learning rate or a fixed scale (train.logit_scale) keeps the similarities apart",
        )
    if metrics.get("train/skipped_steps", 0.0) > 0:
        yield Finding(
            "steps_skipped",
            f"{metrics['train/skipped_steps']:.0f} steps had no finite gradient and changed "
            "nothing; lower train.optimizer.learning_rate if it goes on",
        )
