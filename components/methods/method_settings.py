"""Settings of a compressor: which method it is, and what training adds to the base model."""

from typing import Any, Literal

from pydantic import Field

from components.model.adapters import AdapterParams
from components.params import Params

# the paper's method, and the single pass that Table 7 compares it with
FWD2BOT, SINGLE_FORWARD = "fwd2bot", "single_forward"
WITH_QUERIES = (FWD2BOT, SINGLE_FORWARD)  # are saved with summary queries


class NoSettings(Params):
    """Settings of a method that leaves nothing to choose."""


class CompressorParams(Params):
    """Settings of what training adds to a base model."""

    num_summary_tokens: int = Field(ge=1)  # k', vectors stored per picture
    prompt: str  # read between the picture and the summary queries; may be empty
    # embeddings of the words, or learned vectors that start there
    prompt_embeddings: Literal["frozen", "learned"]
    # words whose embeddings the summary queries start from; empty: random ones
    initial_queries: str
    # factor of the summary tokens; 1 leaves them as the language model's norm does
    summary_scale: float = Field(gt=0)
    attention: Literal["causal", "bidirectional"]  # of the compression pass (Table 12)
    connector: Literal["frozen", "trained"]  # between vision tower and language model
    logit_scale: Literal["learned", "fixed"]
    # multiplier of the cosine similarities, 1 / temperature
    initial_logit_scale: float = Field(gt=0)
    max_logit_scale: float = Field(gt=0)
    adapters: AdapterParams


class ChosenMethod(Params):
    """A method with its own settings, as a trained compressor is saved with them."""

    name: str
    tuning: Literal["trained", "none"]
    settings: dict[str, Any]
