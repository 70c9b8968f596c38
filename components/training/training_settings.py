"""The section `train` of params.yaml: what a compressor is and how it is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.methods.catalogue import MethodParams
from components.methods.method import AUTOREGRESSIVE, CONTRASTIVE
from components.methods.method_settings import FWD2BOT, CompressorParams
from components.model.loading import BackboneParams
from components.pictures import PictureLimits
from components.training.alignment import AlignmentParams
from components.training.collate import TextParams
from components.training.diagnostics import RunSettings
from components.training.forward import LossParams
from components.training.loop import LoopParams
from components.training.optimizer import OptimizerParams
from components.training.validation_scores import ValidationParams

# decide where and how fast a run computes, not what: a run may go on with other values
PLACEMENT = {
    "num_workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "threads_per_worker",
    "decoding_threads_per_worker",
    "max_failures",
    "parallelism",
    "feature_cache",
}


class TrainParams(CompressorParams):
    """Settings of the compressor, its training and its workers, as flat keys of one section."""

    method: MethodParams
    seed: int = Field(ge=0)
    # numbers of summary tokens that are to be enough; none: all
    nested_budgets: tuple[Annotated[int, Field(ge=1)], ...]
    num_workers: int = Field(ge=1)
    cpus_per_worker: int = Field(ge=1)  # reserved on the cluster
    gpus_per_worker: int = Field(ge=0, le=1)  # 0: CPUs, joined by gloo; 1: GPUs, joined by NCCL
    threads_per_worker: int = Field(ge=1)  # CPU threads that compute
    # CPU threads that decode pictures for the next step
    decoding_threads_per_worker: int = Field(ge=1)
    max_failures: int = Field(ge=0)  # restarts from the last checkpoint when a worker is lost
    autoregressive_batch_size: int = Field(ge=1)  # conversations per step, over all workers
    contrastive_batch_size: int = Field(ge=2)  # picture-caption pairs per step, over all workers
    # steps whose samples are sorted by length, so that less is padding
    length_window_steps: int = Field(ge=1)
    # of a worker, computed at once; more take gradient caching
    samples_per_chunk: int = Field(ge=1)
    # the frozen decoder layers on every worker, or spread over them (FSDP2)
    parallelism: Literal["ddp", "fsdp"]
    # folder for the vision tower's features of every picture; null: computed in each step
    feature_cache: str | None
    # recompute layers in the backward pass: less memory, a third more time
    gradient_checkpointing: bool
    backbone: BackboneParams
    loop: LoopParams
    alignment: AlignmentParams
    losses: LossParams
    optimizer: OptimizerParams
    texts: TextParams
    pictures: PictureLimits
    validation: ValidationParams

    @property
    def budgets(self) -> tuple[int, ...]:
        """Return the numbers of summary tokens that are trained."""
        return self.nested_budgets or (self.num_summary_tokens,)

    @property
    def taught(self) -> LossParams:
        """Return the weights of the losses that the method learns by.

        Both as set if it learns by both, as Fwd2Bot, 1 for the only loss of a compared method.
        """
        wanted = self.method.module.model.losses
        if len(wanted) > 1:
            return self.losses
        return LossParams(
            autoregressive_weight=float(AUTOREGRESSIVE in wanted),
            contrastive_weight=float(CONTRASTIVE in wanted),
            max_similarity_weight=0.0,
        )

    @property
    def run_settings(self) -> RunSettings:
        """Return the settings that diagnostics judge a run by."""
        return RunSettings(
            self.loop.num_steps,
            self.contrastive_batch_size,
            self.taught.contrastive_weight,
            self.max_logit_scale,
        )

    @property
    def compressor(self) -> CompressorParams:
        """Return the settings of the compressor alone, which it is saved with."""
        return CompressorParams.model_validate(
            self.model_dump(include=set(CompressorParams.model_fields))
        )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        # prefixes of the summary tokens need a causal pass, and a method that has them
        if max(self.budgets) != self.num_summary_tokens:
            raise ValueError(
                f"the largest of nested_budgets {self.budgets} is not num_summary_tokens "
                f"{self.num_summary_tokens}"
            )
        method = self.method.short_name
        if method != FWD2BOT and (self.nested_budgets or self.alignment.num_steps):
            raise ValueError(
                f"nested_budgets and alignment are for fwd2bot; the method is {method}"
            )
        if self.nested_budgets and self.attention != "causal":
            raise ValueError(
                "nested_budgets need attention: causal; otherwise all summary tokens depend on all"
            )

        # the third loss goes with the second, and with summary tokens of texts
        if self.losses.max_similarity_weight and not self.losses.contrastive_weight:
            raise ValueError(
                "losses.max_similarity_weight needs losses.contrastive_weight > 0: search looks by "
                "the mean of the tokens first"
            )

        # attention masks
        if self.attention == "bidirectional" and self.backbone.attention == "flash_attention_2":
            raise ValueError("attention: bidirectional needs backbone.attention sdpa or eager")

        # methods that do without something
        model = self.method.module.model
        if self.feature_cache and method != FWD2BOT:
            raise ValueError(
                f"feature_cache is for fwd2bot; the method is {method}, set it to null"
            )
        if self.texts.max_row_tokens is not None and model.reads_questions:
            raise ValueError(
                f"{method} asks each question in a row of its own; set max_row_tokens to null"
            )

        # phases before training proper
        if self.method.num_module_steps >= self.loop.num_steps:
            raise ValueError(
                f"method.module_steps {self.method.module_steps} leaves none of loop.num_steps "
                f"{self.loop.num_steps} to the language model; use fewer"
            )
        if self.alignment.num_steps > self.loop.num_steps:
            raise ValueError(f"alignment.num_steps exceeds loop.num_steps {self.loop.num_steps}")
        if self.alignment.num_steps and not self.losses.contrastive_weight:
            raise ValueError(
                "alignment reads the captions of the contrastive loss: it needs "
                "losses.contrastive_weight > 0"
            )

        # a decoder that is trained itself, or spread over workers
        if self.adapters.sharing == "none" and self.backbone.dtype != "float32":
            raise ValueError(
                f"adapters.sharing: none trains the decoder, and {self.backbone.dtype} is too "
                "coarse for small updates; set backbone.dtype to float32"
            )
        if self.parallelism == "fsdp" and not model.uses_language_model:
            raise ValueError(
                f"parallelism: fsdp spreads the language model, which {method} does not read; "
                "use ddp"
            )
        if self.parallelism == "fsdp" and self.adapters.sharing == "none":
            raise ValueError(
                "parallelism: fsdp spreads frozen layers; with adapters.sharing none there are "
                "none, use ddp"
            )
        return self

    @model_validator(mode="after")
    def _workers_share_alike(self) -> Self:
        # each worker's slice of a step is as large as any other's
        for name in ("autoregressive_batch_size", "contrastive_batch_size"):
            if getattr(self, name) % self.num_workers:
                raise ValueError(
                    f"{name} {getattr(self, name)} is not a multiple of num_workers "
                    f"{self.num_workers}"
                )
        return self
