"""One question about one stored picture, answered at once."""

import numpy as np
import torch

from components.methods.method import Method
from components.model.chat import encode_prompt


def answer_question(
    model: Method, summary_tokens: np.ndarray, question: str, max_new_tokens: int
) -> str:
    """Answer greedily from the summary tokens (summary tokens, dim) of a picture.

    Raises ValueError for a question that cannot be asked, or that does not fit the model.
    """
    check_question(question)
    prompt = encode_prompt(model.backbone.chat, question, model.num_summary_tokens)
    check_length(len(prompt), max_new_tokens, model.backbone.max_positions)

    tokens = torch.from_numpy(summary_tokens).to(model.backbone.device)
    new_ids = model.answer(tokens[None], [prompt], max_new_tokens)[0]
    text: str = model.backbone.tokenizer.decode(new_ids, skip_special_tokens=True)
    return text.strip()


def check_question(question: str) -> None:
    """Raise ValueError for an empty question, or one that is not Unicode text."""
    try:
        question.encode()
    except UnicodeEncodeError:
        raise ValueError("the question is not valid Unicode text") from None
    if not question.strip():
        raise ValueError("the question is empty; ask something")


def check_length(num_prompt_tokens: int, max_new_tokens: int, max_positions: int) -> None:
    """Raise ValueError when prompt and answer do not fit the language model."""
    if max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {max_new_tokens}; an answer has at least one token")
    if num_prompt_tokens + max_new_tokens > max_positions:
        raise ValueError(
            f"the question takes {num_prompt_tokens} tokens and the answer up to {max_new_tokens}, "
            f"but the model reads {max_positions}; ask a shorter question or lower --max-new-tokens"
        )
