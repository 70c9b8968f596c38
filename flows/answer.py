"""Job `answer`: ask about a picture of a compressed corpus; it is answered from its stored tokens, the picture is not
opened.

    python -m flows.answer --image-id IMAGE_ID "what colour is the circle?"
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from components.methods.method import Method
from components.model.chat import encode_prompt
from components.store.token_store import TokenStore
from flows.running.endings import ending
from flows.running.stored_corpus import (
    COMPRESSOR,
    STORE,
    BaseOption,
    CompressorOption,
    StoreOption,
    load_model_of,
    run_job,
)


def answer(
    store: TokenStore,
    compressor: Path,
    base: str | None,
    image_id: str,
    question: str,
    max_new_tokens: int,
) -> str:
    """The greedy answer to a question about a stored picture. Raises ValueError."""
    if max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {max_new_tokens}; an answer has at least one token")
    check_question(question)
    tokens = torch.from_numpy(store.tokens([image_id]))  # (1, summary_tokens, dim)
    model = load_model_of(store, compressor, base)
    input_ids = encode_prompt(model.backbone.chat, question, model.num_summary_tokens)
    check_length(model, len(input_ids), max_new_tokens)
    new_ids = model.answer(tokens.to(model.backbone.device), [input_ids], max_new_tokens)[0]
    text: str = model.backbone.tokenizer.decode(new_ids, skip_special_tokens=True)
    return text.strip()


def check_question(question: str) -> None:
    """Raises ValueError for a question without words, or of bytes that are no text."""
    try:
        question.encode()
    except UnicodeEncodeError:
        raise ValueError("the question is not valid Unicode text") from None
    if not question.strip():
        raise ValueError("the question is empty; ask something")


def check_length(model: Method, num_prompt_tokens: int, max_new_tokens: int) -> None:
    """Raises ValueError when question and answer do not fit the language model."""
    positions: int = model.backbone.max_positions
    if num_prompt_tokens + max_new_tokens > positions:
        raise ValueError(
            f"the question takes {num_prompt_tokens} tokens and the answer up to {max_new_tokens}, but the model reads "
            f"{positions}; ask a shorter question or lower --max-new-tokens"
        )


@ending("answer")
def main(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    image_id: Annotated[
        str, typer.Option(help="The picture; `python -m flows.search` prints ids.")
    ],
    store: StoreOption = STORE,
    compressor: CompressorOption = COMPRESSOR,
    base: BaseOption = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 32,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of the answer alone.")
    ] = False,
) -> None:
    """Answer a question about one compressed picture."""
    text = run_job(
        "answer",
        lambda: answer(
            TokenStore.open(store), compressor, base, image_id, question, max_new_tokens
        ),
    )
    print(
        json.dumps({"image_id": image_id, "question": question, "answer": text})
        if as_json
        else text
    )


if __name__ == "__main__":
    typer.run(main)
