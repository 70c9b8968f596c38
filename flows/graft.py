"""Job `graft`: a LLaVA whose language model is replaced by another one of the same shape.

    fwd2bot graft BASE LANGUAGE_MODEL OUTPUT

Table 13 of the paper trains from the bare language model (Vicuna) instead of the instruction-tuned
LLaVA around it: graft it, and make OUTPUT the `base_model`. BASE and LANGUAGE_MODEL are folders or
hub ids; a LLaVA as LANGUAGE_MODEL gives the language model inside. Vision tower, connector,
processor and chat template come from BASE, and so do the embeddings of tokens that LANGUAGE_MODEL
does not have, such as the image placeholder.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from components.files.outputs import new_folder
from components.model.backbone import Backbone
from components.model.families.llava import LlavaBackbone
from components.model.loading import architectures_of, find_source, load_backbone
from components.model.pretrained import load_pretrained, save_model
from flows.running.lifetime import die_with_parent
from flows.running.stored_corpus import quiet_libraries

# settings of a decoder that do not show in the shapes of its weights
DECODER_SETTINGS = (
    "model_type",
    "hidden_act",
    "rms_norm_eps",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rope_parameters",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
)


def graft(base: str, language_model: str, output: Path) -> Path:
    """Write the folder `output`. Raises ValueError: another shape, or something in the way."""
    with new_folder("graft", output, [base, language_model]) as partial:
        backbone = load_backbone(base, None, torch.float32, "sdpa", pad_to_square=True)
        replace_language_model(backbone, *load_language_model(language_model))
        save_model(backbone.vlm, partial)

        # tokenizer, image processor and chat template; not the index of the base's shards
        for path in backbone.source.folder.iterdir():
            is_setting = path.suffix in (".json", ".jinja", ".model")
            is_index = path.name.endswith(".index.json")
            if is_setting and not is_index and not (partial / path.name).exists():
                shutil.copy(path, partial)
    return output


def load_language_model(model: str) -> tuple[nn.Module, nn.Module]:
    """Load decoder and head of a causal language model, or of the one inside a LLaVA."""
    folder = find_source(model, None).folder
    if set(architectures_of(folder)) & set(LlavaBackbone.architectures):
        backbone = load_backbone(model, None, torch.float32, "sdpa", pad_to_square=True)
        return backbone.language_model, backbone.lm_head

    # other architectures name their parts otherwise
    donor: Any = load_pretrained(AutoModelForCausalLM, folder, dtype=torch.float32)
    if not (hasattr(donor, "model") and hasattr(donor, "lm_head")):
        raise ValueError(
            f"{model}: a {type(donor).__name__} has no decoder and head of a LLaVA; "
            "take a Llama or alike"
        )
    return donor.model, donor.lm_head


def check_alike(own: Any, given: Any) -> None:
    """Raise ValueError when two decoders differ in a setting, and so in results."""
    for name in DECODER_SETTINGS:
        found, wanted = getattr(given, name, None), getattr(own, name, None)
        if found != wanted:
            raise ValueError(
                f"{name} is {found} in the language model, {wanted} in the base, whose settings "
                "the result keeps; graft a language model that computes as the one inside"
            )


@torch.no_grad()
def replace_language_model(backbone: Backbone, decoder: nn.Module, head: nn.Module) -> None:
    """Copy every weight of a decoder and its head into a LLaVA, in place. Raises ValueError."""
    check_alike(backbone.language_model.config, decoder.config)
    parts = {"model": (backbone.language_model, decoder), "lm_head": (backbone.lm_head, head)}
    for part, (target, donor) in parts.items():
        own, given = target.state_dict(), donor.state_dict()

        # the same names: else a weight of the base would stay
        if own.keys() != given.keys():
            odd = sorted(own.keys() ^ given.keys())[0]
            raise ValueError(
                f"{part}.{odd} is in one of the two models only; "
                "graft a language model of the same class"
            )

        for name, tensor in own.items():
            copy_rows(f"{part}.{name}", given[name], tensor)


def copy_rows(name: str, source: Tensor, target: Tensor) -> None:
    """Copy a weight; embeddings and head of the donor may have fewer rows."""
    is_table = name in ("model.embed_tokens.weight", "lm_head.weight")
    rows = len(source) if is_table and len(source) <= len(target) else len(target)
    if source.shape != target[:rows].shape:
        raise ValueError(
            f"{name} is {tuple(source.shape)} in the language model, "
            f"{tuple(target.shape)} in the base"
        )
    target[:rows] = source


def main(base: str, language_model: str, output: Path) -> None:
    """Write the graft, and say where."""
    die_with_parent()
    quiet_libraries()
    graft(base, language_model, output)
    print(f"graft: {output} holds {base} around {language_model}")


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("graft")
