"""Writers of published file formats: LLaVA-665k, CC3M webdataset tars, COCO captions, BEIR."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

JPEG_OPTIONS: dict[str, Any] = {"quality": 95, "subsampling": 0}


def jpeg_bytes(picture: Image.Image) -> bytes:
    """Encode the picture as JPEG with full colour resolution."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **JPEG_OPTIONS)
    return buffer.getvalue()


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, keys in the order given."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def llava_record(
    sample_id: str,
    turns: Sequence[tuple[str, str]],
    image: str | None,
    phrases: Sequence[str] = (),
    placeholder_last: bool = False,
) -> dict[str, Any]:
    """Build one row of LLaVA-665k; as in the published file, `<image>` stands on either side.

    `phrases` are no part of the published format, whose readers pass over them.
    """
    # The placeholder stands in the first question only.
    conversations = []
    for index, (question, answer) in enumerate(turns):
        if image is not None and index == 0:
            question = f"{question}\n<image>" if placeholder_last else f"<image>\n{question}"
        conversations += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]

    # A conversation without a picture has no such key.
    picture = {} if image is None else {"image": image, "phrases": list(phrases)}
    return {"id": sample_id, **picture, "conversations": conversations}


def caption_members(
    key: str, jpeg: bytes, caption: str, phrases: Sequence[str] = ()
) -> list[tuple[str, bytes]]:
    """Build the members of a CC3M sample as img2dataset does: KEY.jpg, KEY.txt, KEY.json."""
    described = {"key": key, "caption": caption, "status": "success", "phrases": list(phrases)}
    metadata = json.dumps(described).encode()
    return [(f"{key}.jpg", jpeg), (f"{key}.txt", caption.encode()), (f"{key}.json", metadata)]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar with neither times nor owners, so that equal members give equal bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def coco_captions(captions: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Build COCO caption annotations of pictures by file name."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, texts) in enumerate(captions.items(), start=1):
        images.append({"id": image_id, "file_name": name})
        for text in texts:
            number = len(annotations) + 1
            annotations.append({"image_id": image_id, "caption": text, "id": number})
    return {"images": images, "annotations": annotations}


def beir_query(query_id: str, text: str, kind: str) -> dict[str, Any]:
    """Build a line of BEIR's queries.jsonl."""
    return {"_id": query_id, "text": text, "metadata": {"kind": kind}}


def write_qrels(path: Path, relevant: Mapping[str, Sequence[str]]) -> None:
    """Write BEIR's table of what is relevant, of {query id: its documents}, with the score 1."""
    lines = ["query-id\tcorpus-id\tscore\n"]
    for query_id, names in relevant.items():
        lines += [f"{query_id}\t{name}\t1\n" for name in names]
    path.write_text("".join(lines), encoding="utf-8")
