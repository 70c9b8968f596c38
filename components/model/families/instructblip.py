"""InstructBLIP (arXiv 2305.06500) around Vicuna: a Q-Former makes 32 tokens of a picture.

Its Q-Former reads the question too. A stored picture cannot know its questions, so that here it
reads the same instruction for every picture.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor, nn

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.prepared import PreparedPictures
from components.model.pretrained import load_tokenizer

INSTRUCTION = "Describe the image in detail."
PLAIN_TEMPLATE = (  # a question as it is, and the picture before the first token of all
    "{% for message in messages %}"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "{{ bos_token if loop.first else ' ' }}"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' }}"
    "{% endfor %}"
)


class InstructBlipBackbone(Backbone):
    """The language model is a complete Llama with its head.

    Encoder-decoders (FLAN-T5) are refused: they have no summary tokens to give.
    """

    architectures: ClassVar[tuple[str, ...]] = ("InstructBlipForConditionalGeneration",)
    markup: ClassVar[Markup] = Markup(chat_template=PLAIN_TEMPLATE)

    def set_up(self) -> None:
        """Load the instruction, in the words of the Q-Former's own tokenizer (BERT's)."""
        if not self.vlm.config.use_decoder_only_language_model:
            raise ValueError(
                f"{self.source.name}: its language model is an encoder-decoder; "
                "use an InstructBLIP of Vicuna"
            )

        tokenizer = load_tokenizer(self.source.folder / "qformer_tokenizer")
        self.instruction = tokenizer(INSTRUCTION, return_tensors="pt")

    @property
    def language_model(self) -> Any:
        """The decoder without its head; its output is taken after the final norm."""
        return self.vlm.language_model.model

    @property
    def lm_head(self) -> nn.Module:
        """The linear layer from hidden states to logits over the vocabulary."""
        return self.vlm.language_model.lm_head

    @property
    def connector(self) -> nn.Module:
        """The module between Q-Former and language model."""
        return self.vlm.language_projection

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Preprocess to pixels (pictures, 3, height, width) and the instruction, once for each."""
        tensors = super().prepare(images).tensors
        for name in ("input_ids", "attention_mask"):
            tensors[f"qformer_{name}"] = self.instruction[name].repeat(len(images), 1)
        return PreparedPictures(len(images), tensors)

    def picture_tokens(self, pictures: PreparedPictures) -> list[Tensor]:
        """Run vision tower, Q-Former and projection: (image tokens, dim) for each picture."""
        return list(self.vlm.get_image_features(**pictures.tensors).pooler_output)
