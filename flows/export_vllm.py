"""Job `export_vllm`: a compressor as vLLM serves it, and a request about a stored picture.

    fwd2bot export-vllm exports/demo "what colour is the circle?" --image-id IMAGE_ID

The folder gets language_model/ (the base without its vision side), adapter/ (the generation pass,
in PEFT's layout), request.json and a README.md with the commands. docs/answering.md.
"""

import json
from pathlib import Path

from components.answering.one_question import check_length, check_question
from components.answering.serving import (
    completion_request,
    prompt_embeds,
    save_generation_adapter,
    save_language_model,
)
from components.compression.stored_model import load_model_of
from components.files.outputs import new_folder
from components.store.store_reader import StoreReader
from flows.running.stored_corpus import quiet_libraries

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # allowed as vLLM's --max-lora-rank
NAME, BASE_NAME = "fwd2bot", "language-model"  # of the models, in requests to the server
README = """\
# Answers from stored tokens with vLLM

```
vllm serve language_model --served-model-name {base_name} --runner generate --dtype {dtype} \\
  --max-model-len {positions} --enable-prompt-embeds{lora}
curl http://127.0.0.1:8000/v1/completions \\
  --header 'Content-Type: application/json' --data @request.json
```
Run it in this folder. More requests: `prompt_embeds` and `completion_request` in
components/answering/serving.py.

Embeddings of a wrong shape may stop the server, so give this interface to programs that you trust
only.
"""


def export_vllm(
    output: Path,
    store: StoreReader,
    compressor: Path,
    base: str | None,
    image_id: str,
    question: str,
    max_tokens: int,
) -> None:
    """Write the folder, whole or not at all, in place of an earlier export. Raises ValueError."""
    check_question(question)
    inputs: list[Path | str] = [store.folder, compressor, *([base] if base else [])]
    with new_folder("export_vllm", output, inputs) as aside:
        write_export(aside, store, compressor, base, image_id, question, max_tokens)


def write_export(
    aside: Path,
    store: StoreReader,
    compressor: Path,
    base: str | None,
    image_id: str,
    question: str,
    max_tokens: int,
) -> None:
    """Write model, adapter, request and instructions into an empty folder."""
    # the model, in two parts
    tokens = store.tokens([image_id])[0]
    model = load_model_of(store.provenance, compressor, base)
    backbone = model.backbone
    save_language_model(backbone, aside / "language_model")
    has_adapter = save_generation_adapter(model, aside / "adapter", store.provenance.base)

    # the server is told of an adapter, and how much room it takes
    lora = ""
    if has_adapter:
        rank = lora_rank(compressor, model.params.adapters.rank)
        lora = f" \\\n  --enable-lora --max-lora-rank {rank} --lora-modules {NAME}=adapter"

    # a request about the picture
    embeds = prompt_embeds(backbone, tokens, question)
    check_length(len(embeds), max_tokens, backbone.max_positions)
    request = completion_request(NAME if has_adapter else BASE_NAME, embeds, max_tokens)
    (aside / "request.json").write_text(json.dumps(request, indent=1) + "\n")

    # the commands that serve the model and send the request
    readme = README.format(
        base_name=BASE_NAME,
        dtype=str(backbone.dtype).removeprefix("torch."),
        positions=backbone.max_positions,
        lora=lora,
    )
    (aside / "README.md").write_text(readme, encoding="utf-8")


def lora_rank(compressor: Path, rank: int) -> int:
    """Return the lowest of vLLM's ranks that holds an adapter. Raises ValueError."""
    for allowed in LORA_RANKS:
        if allowed >= rank:
            return allowed
    raise ValueError(f"{compressor}: rank {rank} is above vLLM's highest, {LORA_RANKS[-1]}")


def main(
    output: Path,
    question: str,
    image_id: str,
    store: Path,
    compressor: Path,
    base: str | None,
    max_new_tokens: int,
) -> None:
    """Write the export, and say where."""
    quiet_libraries()
    opened = StoreReader.open(store)
    export_vllm(output, opened, compressor, base, image_id, question, max_new_tokens)
    print(f"export_vllm: {output}; its README.md says how to serve it")


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("export_vllm")
