"""Conversations as token ids: the model's chat template, labels, and no smuggled tokens.

The template is rendered with a stand-in for each text, so that it is known which characters come
from the template and which from people. The chat is then tokenised in one call, as Hugging Face
would; only where a person wrote the name of a special token ("</s>", "<image>") is it cut inside
that name, which keeps it plain text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from components.losses.autoregressive import IGNORE_INDEX
from components.schema import IMAGE_PLACEHOLDER

Turn = Mapping[str, str]  # {"role": "user" or "assistant", "content": text}
STAND_IN = "\ue000{}\ue001"  # for the text of a turn; private-use characters
VICUNA_V1_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


class Markup(NamedTuple):
    """The text that a family of models writes for a picture, and at the end of an answer."""

    image_token: str = IMAGE_PLACEHOLDER  # one for each visual token
    template_image: str = IMAGE_PLACEHOLDER  # what the chat template writes for a picture
    frame: tuple[str, str] = ("", "")  # what the model reads before and after the visual tokens
    # tokens of the template that end an answer; the end of text always does
    end_tokens: tuple[str, ...] = ()
    chat_template: str = VICUNA_V1_TEMPLATE  # where a checkpoint has none


class ChatFormat(NamedTuple):
    """A model's way to write a chat: tokenizer with chat template, and the family's markup."""

    tokenizer: Any  # PreTrainedTokenizerBase
    markup: Markup = Markup()

    @property
    def frame_ids(self) -> tuple[list[int], list[int]]:
        """The frame as token ids."""
        encode = partial(self.tokenizer, add_special_tokens=False)
        before, after = self.markup.frame
        return encode(before)["input_ids"], encode(after)["input_ids"]

    def picture(self, num_visual_tokens: int) -> str:
        """Return the text that stands in a chat for a picture of `num_visual_tokens`."""
        return (self.markup.image_token * num_visual_tokens).join(self.markup.frame)

    def end_at(self, text: str) -> str | None:
        """Return the end token with which the text behind an answer starts, if it does."""
        for token in (self.tokenizer.eos_token, *self.markup.end_tokens):
            if text.lstrip().startswith(token):
                return token
        return None


class Piece(NamedTuple):
    """A stretch of the rendered chat and who wrote it: "template", "user" or "assistant"."""

    text: str
    author: str


class Span(NamedTuple):
    """Characters of the rendered chat, the end excluded."""

    start: int
    stop: int

    def overlaps(self, other: "Span") -> bool:
        """Return whether the two have a character in common."""
        return max(self.start, other.start) < min(self.stop, other.stop)


def encode_conversation(
    chat: ChatFormat, turns: Sequence[Turn], num_visual_tokens: int
) -> tuple[list[int], list[int]]:
    """Encode a finished conversation as input ids and labels, one label per id.

    Labels are the ids of every answer and its end token, IGNORE_INDEX elsewhere (X_a of Eq. 2).
    With `num_visual_tokens` > 0 the first user turn must hold the image placeholder, which becomes
    that many image tokens; with 0 nothing is a placeholder.
    """
    pieces = render(chat, turns, num_visual_tokens, add_generation_prompt=False)
    answers = list(answer_spans(pieces, chat))
    input_ids, spans = tokenize(chat.tokenizer, pieces, add_special_tokens=True)

    # A token that an answer shares with the template is part of the answer.
    labels = []
    for token, span in zip(input_ids, spans, strict=True):
        is_answer = any(map(span.overlaps, answers))
        labels.append(token if is_answer else IGNORE_INDEX)
    return input_ids, labels


def encode_prompt(
    chat: ChatFormat, question: str | Sequence[Turn], num_visual_tokens: int
) -> list[int]:
    """Encode a prompt as input ids that end where the answer starts (X_q of Eq. 2).

    A question is plain text throughout and the picture comes before it; in a list of turns, the
    first user turn must hold the image placeholder when `num_visual_tokens` > 0.
    """
    if isinstance(question, str):
        content = IMAGE_PLACEHOLDER + question if num_visual_tokens else question
        question = [{"role": "user", "content": content}]

    pieces = render(chat, question, num_visual_tokens, add_generation_prompt=True)
    return tokenize(chat.tokenizer, pieces, add_special_tokens=True)[0]


def encode_prompt_around(chat: ChatFormat, prompt: str) -> tuple[list[int], list[int]]:
    """Encode a chat around a text that is tokens already: the ids before it and behind it.

    The text is followed by `prompt` on a line of its own, and the ids end where the answer starts.
    """
    turns = [{"role": "user", "content": prompt}]
    before, line, behind = render(chat, turns, 0, add_generation_prompt=True)

    # The first token of the text brings its own space along, as SentencePiece writes it.
    before = before._replace(text=before.text.rstrip(" "))
    following = [Piece("\n", "template"), line, behind]
    return (
        tokenize(chat.tokenizer, [before], add_special_tokens=True)[0],
        tokenize(chat.tokenizer, following, add_special_tokens=False)[0],
    )


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode plain text, such as a caption: special tokens are neither added nor parsed."""
    return tokenize(tokenizer, [Piece(text, "user")], add_special_tokens=False)[0]


def render(
    chat: ChatFormat, turns: Sequence[Turn], num_visual_tokens: int, add_generation_prompt: bool
) -> list[Piece]:
    """Fill the chat template: template and texts by turns.

    The end token follows every answer, also where the template writes none (LLaVA-1.5's).
    """
    # The first user turn's placeholder becomes the template's own way to write a picture.
    texts = [turn["content"].strip() for turn in turns]
    picture_turn = placeholder_turn(turns) if num_visual_tokens else None
    if picture_turn is not None:
        texts[picture_turn] = texts[picture_turn].replace(IMAGE_PLACEHOLDER, "", 1).strip()

    # Stand-ins in place of texts: nothing that a person wrote is read as part of the template.
    messages: list[Any] = []
    for index, turn in enumerate(turns):
        content: list[dict[str, str]] = [{"type": "text", "text": STAND_IN.format(index)}]
        if index == picture_turn:
            content.insert(0, {"type": "image"})
        messages.append({"role": turn["role"], "content": content})

    rendered = chat.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )

    # The parts alternate: template, turn number, template, turn number, …
    lead, *parts = re.split(STAND_IN.format(r"(\d+)"), str(rendered))
    lead = lead.replace(chat.markup.template_image, chat.picture(num_visual_tokens))
    pieces = [Piece(lead, "template")]
    for number, following in zip(map(int, parts[::2]), parts[1::2], strict=True):
        author = turns[number]["role"]
        # A model that never reads an end token never writes one.
        if author == "assistant" and not chat.end_at(following):
            following = chat.tokenizer.eos_token + following.lstrip(" ")
        pieces += [Piece(texts[number], author), Piece(following, "template")]
    return pieces


def placeholder_turn(turns: Sequence[Turn]) -> int:
    """Return the index of the first user turn. Raises ValueError if it holds no placeholder."""
    roles = [turn["role"] for turn in turns]
    first = roles.index("user") if "user" in roles else None
    if first is None or IMAGE_PLACEHOLDER not in turns[first]["content"]:
        raise ValueError(
            f"the first user turn has no {IMAGE_PLACEHOLDER}; put it where the picture belongs, "
            "or encode the conversation with 0 visual tokens"
        )
    return first


def answer_spans(pieces: Sequence[Piece], chat: ChatFormat) -> Iterator[Span]:
    """Yield the characters of each answer, with the spaces before it and its end token.

    Tokens swallow the spaces in front of a word.
    """
    stops = list(accumulate(len(piece.text) for piece in pieces))
    for index, piece in enumerate(pieces):
        if piece.author != "assistant":
            continue

        # The template's pieces stand around every answer.
        before, after = pieces[index - 1].text, pieces[index + 1].text
        start = stops[index - 1] - (len(before) - len(before.rstrip(" ")))
        end = chat.end_at(after) or ""
        yield Span(start, stops[index] + after.index(end) + len(end))


def tokenize(
    tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], add_special_tokens: bool
) -> tuple[list[int], list[Span]]:
    """Encode pieces as token ids and the characters of each.

    Names of special tokens count as these tokens in the template only.
    """
    text = "".join(piece.text for piece in pieces)
    cuts = [0, *special_name_cuts(tokenizer, pieces), len(text)]
    has_bos = bool(tokenizer.bos_token) and tokenizer.bos_token in pieces[0].text

    # One call, unless there is something to cut: token ids as from the text in one piece.
    input_ids: list[int] = []
    spans: list[Span] = []
    for start, stop in pairwise(cuts):
        encoding = tokenizer(
            text[start:stop],
            add_special_tokens=add_special_tokens and start == 0 and not has_bos,
            return_offsets_mapping=True,
        )
        input_ids += encoding["input_ids"]
        for first, last in encoding["offset_mapping"]:
            spans.append(Span(start + first, start + last))
    return input_ids, spans


def special_name_cuts(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece]) -> list[int]:
    """Return positions one character into every special token's name that a person wrote."""
    names = sorted(token.content for token in tokenizer.added_tokens_decoder.values())
    pattern = re.compile(f"(?={'|'.join(map(re.escape, names))})")  # look ahead: names may overlap

    # A name cut in two is tokenised as the letters that it is made of.
    cuts = []
    position = 0
    for piece in pieces:
        if piece.author != "template":
            for match in pattern.finditer(piece.text):
                cuts.append(position + match.start() + 1)
        position += len(piece.text)
    return cuts
