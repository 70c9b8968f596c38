"""Job `answer`: ask about a picture of a compressed corpus; the picture itself is not opened.

    fwd2bot ask "what colour is the circle?" --image-id IMAGE_ID

The answer comes from the stored summary tokens.
"""

import json
from pathlib import Path

from components.answering.one_question import answer_question, check_question
from components.compression.stored_model import load_model_of
from components.store.store_reader import StoreReader
from flows.running.stored_corpus import quiet_libraries


def answer(
    store: StoreReader,
    compressor: Path,
    base: str | None,
    image_id: str,
    question: str,
    max_new_tokens: int,
) -> str:
    """Answer a question about a stored picture greedily. Raises ValueError."""
    check_question(question)  # before a model is loaded, which takes its time
    summary_tokens = store.tokens([image_id])[0]
    model = load_model_of(store.provenance, compressor, base)
    return answer_question(model, summary_tokens, question, max_new_tokens)


def main(
    question: str,
    image_id: str,
    store: Path,
    compressor: Path,
    base: str | None,
    max_new_tokens: int,
    as_json: bool,
) -> None:
    """Print the answer, as JSON if wanted with what was asked."""
    quiet_libraries()
    opened = StoreReader.open(store)
    text = answer(opened, compressor, base, image_id, question, max_new_tokens)
    asked = {"image_id": image_id, "question": question, "answer": text}
    print(json.dumps(asked) if as_json else text)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("answer")
