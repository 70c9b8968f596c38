"""Methods on the tiny LLaVA, and batches to teach them with."""

from pathlib import Path
from typing import Any

from components.methods.catalogue import build_method
from components.methods.method import Method
from components.methods.method_settings import ChosenMethod
from components.training.budgets import Budgets
from components.training.collate import SPLITS, TrainBatch, collate
from components.training.forward import LossParams
from components.training.optimizer import trained_parameters
from components.training.sampler import StepSamples
from components.training.step import backward_step
from tests.components.methods.settings import SETTINGS
from tests.components.model.tiny import COMPRESSOR, awakened, load
from tests.components.training.world import LENGTHS, samples

GENERATIVE = LossParams(
    autoregressive_weight=1.0, contrastive_weight=0.0, max_similarity_weight=0.0
)


def built(
    folder: Path, name: str, tuning: str = "trained", count: int = 4, **settings: Any
) -> Method:
    """A method without dropout, whose adapters do something."""
    adapters = COMPRESSOR.adapters.model_copy(update={"dropout": 0.0})
    params = COMPRESSOR.model_copy(update={"num_summary_tokens": count, "adapters": adapters})
    chosen = ChosenMethod(name=name, tuning=tuning, settings=SETTINGS[name] | settings)  # type: ignore[arg-type]
    return awakened(build_method(load(folder), params, chosen, seed=0))


def conversations(model: Method, indices: tuple[int, ...], budgets: Any = None) -> TrainBatch:
    """Some conversations of the tiny world."""
    return collated(model, StepSamples(indices, ()), budgets)


def collated(model: Method, groups: StepSamples, budgets: Any = None) -> TrainBatch:
    """Collate groups of the tiny world; conversations draw a budget if none are given."""
    budgets = budgets or Budgets(model.budgets(()), seed=0, step=0)
    table = samples(10)
    wanted = {index: table[index] for group in groups for index in group}
    return collate(wanted, groups, model.backbone, budgets, LENGTHS, SPLITS[model.reads_questions])


def without_gradient(model: Method) -> list[str]:
    """What is to be learned and gets no gradient from a step with pictures and with text alone."""
    backward_step(model, [conversations(model, (0, 1, 2, 4, 5, 7))], GENERATIVE)
    trained = trained_parameters(model)
    return [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
