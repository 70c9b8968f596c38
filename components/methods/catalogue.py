"""The catalogue of methods: loads the module of one by its name, so that a run imports no other.

The module of a method lies at a place below `components/`, `methods/fwd2bot` or
`baselines/prumerge`, and its settings in the YAML file beside it. It ends with a `METHOD`. What is
saved, stored and reported has the short name, `prumerge`.
"""

import importlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from components.files.code import code_sha256
from components.methods.method import Method, MethodModule
from components.methods.method_settings import FWD2BOT, ChosenMethod, CompressorParams
from components.model.backbone import Backbone
from components.params import Params, load_whole

COMPONENTS = Path(__file__).parents[1]


class MethodParams(Params):
    """The method that is trained; its own settings are read by `choose_method`."""

    name: str  # place of its module below components/
    # of compared methods: as their papers train them, or as they come
    tuning: Literal["trained", "none"]
    # the first, in which modules of a method and the connector learn by themselves
    module_steps: int = Field(ge=0)

    @property
    def short_name(self) -> str:
        """The name without the folder."""
        return self.name.rpartition("/")[2]

    @property
    def module(self) -> MethodModule:
        """The description that the method's module gives of it."""
        return method_module(self.short_name)

    @property
    def num_module_steps(self) -> int:
        """The first steps, in which the language model does not learn; 0 without new modules."""
        return self.module_steps if self.module.num_stages == 2 else 0

    @field_validator("name")
    @classmethod
    def _method_exists(cls, name: str) -> str:
        places = [place_of(known) for known in method_names()]
        if name not in places:
            raise ValueError(f"{name!r} is no method; take one of {', '.join(places)}")
        return name

    @model_validator(mode="after")
    def _untrained_method_has_no_tuning(self) -> Self:
        if self.module.num_stages == 0 and self.tuning != "none":
            raise ValueError(
                f"method.name: {self.short_name} trains nothing; set method.tuning to none"
            )
        return self


def choose_method(params: MethodParams) -> ChosenMethod:
    """Read the settings of the method to train. Raises ParamsError, which names their file."""
    # beside the module, so that a compared method brings its own file
    settings = load_whole(COMPONENTS / f"{params.name}.yaml", params.module.settings)
    return ChosenMethod(
        name=params.short_name, tuning=params.tuning, settings=settings.model_dump(mode="json")
    )


def method_names() -> list[str]:
    """List the short names of all methods."""
    baselines = sorted(path.stem for path in (COMPONENTS / "baselines").glob("[!_]*.py"))
    return [FWD2BOT, *baselines]


def place_of(name: str) -> str:
    """Return where the module of a method lies below `components/`, without its ending."""
    return f"methods/{name}" if name == FWD2BOT else f"baselines/{name}"


@cache
def method_module(name: str) -> MethodModule:
    """Load the module of a method. Raises ValueError, with all names, when there is none."""
    if name not in method_names():
        raise ValueError(f"there is no method {name!r}, only {', '.join(method_names())}")
    return importlib.import_module(_import_name(name)).METHOD


def method_class(name: str) -> type[Method]:
    """Return the class of a method's models."""
    return method_module(name).model


def build_method(
    backbone: Backbone, params: CompressorParams, chosen: ChosenMethod, seed: int
) -> Method:
    """Build an untrained method on a base model, in place.

    Raises ValueError when the two do not go together.
    """
    return method_module(chosen.name).build(backbone, params, chosen, seed)


def code_of(entries: Iterable[str], name: str) -> str:
    """Hash the code of a run with one method: the modules that `entries` and the method import.

    Fwd2Bot's module counts for itself only, although the training imports it.
    """
    fwd2bot = {_import_name(FWD2BOT)}
    return code_sha256(entries, without=fwd2bot) + code_sha256([_import_name(name)])


def _import_name(name: str) -> str:
    return f"components.{place_of(name).replace('/', '.')}"
