"""Settings of the stage: the section `evaluate` of params.yaml."""

from typing import Literal, Self

from pydantic import Field, model_validator

from components.evaluation.asking import PromptParams
from components.evaluation.intervals import BootstrapParams
from components.evaluation.recall import MEAN
from components.params import Params
from components.pictures import PictureLimits


class EvaluateParams(Params):
    """Systems, pictures and prompts of the evaluation, and its workers."""

    split: Literal["validation", "test"]
    pictures: PictureLimits
    prompts: PromptParams
    # systems that are asked beside it; without `downsampled` there is no hard subset
    references: tuple[Literal["uncompressed", "average_pooled", "downsampled", "blind"], ...]
    captioned_pictures: int = Field(ge=0)  # pictures that every system captions, the first by id
    captions_per_picture: int = Field(ge=1)  # captions of a picture that take part in retrieval
    # what texts find pictures by, and pictures texts: the mean of the tokens, and each of them
    rankings: tuple[Literal["mean", "maxsim"], ...]
    bootstrap: BootstrapParams
    pictures_per_task: int = Field(ge=1)  # a worker's portion; batches never reach across portions
    texts_per_task: int = Field(ge=1)  # captions embedded per portion
    num_workers: int = Field(ge=1)
    cpus_per_worker: int = Field(ge=1)  # also threads of the model
    gpus_per_worker: int = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _has_the_mean(self) -> Self:
        if MEAN not in self.rankings:
            raise ValueError(
                f"rankings {list(self.rankings)} lack {MEAN}, by which every search begins; add it"
            )
        return self
