"""Conversations as token ids: the model's own chat template, labels on the answers, and no way to smuggle in tokens.

The template is rendered with a stand-in for each text, so that it is known which characters come
from the template and which from people. The chat is then tokenised in one call, as Hugging Face
would; only where a person wrote the name of a special token ("</s>", "<image>") is it cut inside
that name, which keeps it plain text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from components.losses.autoregressive import IGNORE_INDEX

Turn = Mapping[str, str]  # {"role": "user" or "assistant", "content": text}
IMAGE_PLACEHOLDER = "<image>"
STAND_IN = "\ue000{}\ue001"  # for the text of a turn; private-use characters
VICUNA_V1_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


class Markup(NamedTuple):
    """What a family of models writes for a picture, and at the end of an answer."""

    image_token: str = IMAGE_PLACEHOLDER  # one for each visual token
    template_image: str = IMAGE_PLACEHOLDER  # what the chat template writes for a picture
    frame: tuple[str, str] = ("", "")  # what the model reads before and after the visual tokens
    # tokens of the template that end an answer; the end of text always does
    end_tokens: tuple[str, ...] = ()
    chat_template: str = VICUNA_V1_TEMPLATE  # where a checkpoint has none


class ChatFormat(NamedTuple):
    """How a model writes a chat: its tokenizer, which has the chat template, and the markup of its family."""

    tokenizer: Any  # PreTrainedTokenizerBase
    markup: Markup = Markup()

    @property
    def frame_ids(self) -> tuple[list[int], list[int]]:
        """The frame as token ids."""
        before, after = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in self.markup.frame
        )
        return before, after

    def picture(self, num_visual_tokens: int) -> str:
        """What stands in a chat for a picture of so many tokens."""
        return (self.markup.image_token * num_visual_tokens).join(self.markup.frame)

    def end_at(self, text: str) -> str | None:
        """The token that ends an answer if what follows the answer starts with one."""
        ends = (self.tokenizer.eos_token, *self.markup.end_tokens)
        return next((token for token in ends if text.lstrip().startswith(token)), None)


class Piece(NamedTuple):
    """A stretch of the rendered chat and who wrote it: "template", "user" or "assistant"."""

    text: str
    author: str


class Span(NamedTuple):
    """Characters of the rendered chat, the end excluded."""

    start: int
    stop: int

    def overlaps(self, other: "Span") -> bool:
        return max(self.start, other.start) < min(self.stop, other.stop)


def encode_conversation(
    chat: ChatFormat, turns: Sequence[Turn], num_visual_tokens: int
) -> tuple[list[int], list[int]]:
    """A finished conversation as input ids and labels, as long as it is.

    Labels are the ids of every answer and its end token, IGNORE_INDEX elsewhere. With
    `num_visual_tokens` > 0 the first user turn must hold the image placeholder, which becomes that
    many image tokens; with 0 nothing is a placeholder.
    """
    pieces = render(chat, turns, num_visual_tokens, add_generation_prompt=False)
    answers = list(answer_spans(pieces, chat))
    input_ids, spans = tokenize(chat.tokenizer, pieces, add_special_tokens=True)
    labels = [
        token if any(span.overlaps(answer) for answer in answers) else IGNORE_INDEX
        for token, span in zip(input_ids, spans, strict=True)
    ]
    return input_ids, labels


def encode_prompt(
    chat: ChatFormat, question: str | Sequence[Turn], num_visual_tokens: int
) -> list[int]:
    """Input ids that end where the answer starts.

    A question is plain text throughout and the picture comes before it; of turns, the first user
    turn must hold the image placeholder when `num_visual_tokens` > 0.
    """
    if isinstance(question, str):
        question = [
            {"role": "user", "content": IMAGE_PLACEHOLDER * bool(num_visual_tokens) + question}
        ]
    pieces = render(chat, question, num_visual_tokens, add_generation_prompt=True)
    return tokenize(chat.tokenizer, pieces, add_special_tokens=True)[0]


def encode_prompt_around(chat: ChatFormat, prompt: str) -> tuple[list[int], list[int]]:
    """Input ids before and behind a text that a line of its own follows, `prompt`, up to where the answer starts.

    For texts that are tokens already, whose first brings its own space along, as SentencePiece
    writes it.
    """
    before, line, behind = render(
        chat, [{"role": "user", "content": prompt}], 0, add_generation_prompt=True
    )
    before = before._replace(text=before.text.rstrip(" "))
    ids = tokenize(chat.tokenizer, [before], add_special_tokens=True)[0]
    asked = [Piece("\n", "template"), line, behind]
    return ids, tokenize(chat.tokenizer, asked, add_special_tokens=False)[0]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Plain text, such as a caption: special tokens are neither added nor parsed."""
    return tokenize(tokenizer, [Piece(text, "user")], add_special_tokens=False)[0]


def render(
    chat: ChatFormat, turns: Sequence[Turn], num_visual_tokens: int, add_generation_prompt: bool
) -> list[Piece]:
    """Fill the chat template; the end token follows every answer, also where the template writes none (LLaVA-1.5's)."""
    texts = [turn["content"].strip() for turn in turns]
    content = [[{"type": "text", "text": STAND_IN.format(index)}] for index in range(len(turns))]
    if num_visual_tokens:
        first = placeholder_turn(turns)
        texts[first] = texts[first].replace(IMAGE_PLACEHOLDER, "", 1).strip()
        content[first].insert(0, {"type": "image"})
    messages: list[Any] = [
        {"role": turn["role"], "content": it} for turn, it in zip(turns, content, strict=True)
    ]
    rendered = chat.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )

    # template, turn number, template, turn number, …
    parts = re.split(STAND_IN.format(r"(\d+)"), str(rendered))
    pieces = [
        Piece(
            parts[0].replace(chat.markup.template_image, chat.picture(num_visual_tokens)),
            "template",
        )
    ]
    for number, following in zip(parts[1::2], parts[2::2], strict=True):
        author = turns[int(number)]["role"]
        if author == "assistant" and not chat.end_at(following):
            following = chat.tokenizer.eos_token + following.lstrip(" ")
        pieces += [Piece(texts[int(number)], author), Piece(following, "template")]
    return pieces


def placeholder_turn(turns: Sequence[Turn]) -> int:
    """The index of the first user turn, which must hold the image placeholder."""
    first = next((index for index, turn in enumerate(turns) if turn["role"] == "user"), None)
    if first is None or IMAGE_PLACEHOLDER not in turns[first]["content"]:
        raise ValueError(
            f"the first user turn has no {IMAGE_PLACEHOLDER}; put it where the picture belongs, or encode the "
            "conversation with 0 visual tokens"
        )
    return first


def answer_spans(pieces: Sequence[Piece], chat: ChatFormat) -> Iterator[Span]:
    """Where the answers are: from the spaces before the text (tokens swallow them) to the end of the end token."""
    stops = list(accumulate(len(piece.text) for piece in pieces))
    for index, piece in enumerate(pieces):
        if piece.author == "assistant":
            before, after = pieces[index - 1].text, pieces[index + 1].text
            start = stops[index - 1] - (len(before) - len(before.rstrip(" ")))
            end = chat.end_at(after) or ""
            yield Span(start, stops[index] + after.index(end) + len(end))


def tokenize(
    tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], add_special_tokens: bool
) -> tuple[list[int], list[Span]]:
    """Token ids and their characters; names of special tokens count in the template only."""
    text = "".join(piece.text for piece in pieces)
    cuts = [0, *special_name_cuts(tokenizer, pieces), len(text)]
    has_bos = bool(tokenizer.bos_token) and tokenizer.bos_token in pieces[0].text
    input_ids: list[int] = []
    spans: list[Span] = []
    for start, stop in pairwise(cuts):
        encoding = tokenizer(
            text[start:stop],
            add_special_tokens=add_special_tokens and start == 0 and not has_bos,
            return_offsets_mapping=True,
        )
        input_ids += encoding["input_ids"]
        spans += [Span(start + first, start + last) for first, last in encoding["offset_mapping"]]
    return input_ids, spans


def special_name_cuts(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece]) -> list[int]:
    """Positions one character into every special token's name that a person wrote."""
    names = sorted(token.content for token in tokenizer.added_tokens_decoder.values())
    pattern = re.compile(f"(?={'|'.join(map(re.escape, names))})")  # look ahead: names may overlap
    cuts = []
    position = 0
    for piece in pieces:
        if piece.author != "template":
            cuts += [position + match.start() + 1 for match in pattern.finditer(piece.text)]
        position += len(piece.text)
    return cuts
