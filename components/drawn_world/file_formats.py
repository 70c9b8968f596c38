"""Writers of the published file formats: LLaVA-665k JSON, CC3M webdataset tars, evaluation files (COCO, SugarCrepe)."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

JPEG_OPTIONS: dict[str, Any] = {"quality": 95, "subsampling": 0}


def jpeg_bytes(picture: Image.Image) -> bytes:
    """The picture as JPEG with full colour resolution."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **JPEG_OPTIONS)
    return buffer.getvalue()


def write_json(path: Path, value: Any) -> None:
    """One JSON document, keys in the order given."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line."""
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def llava_record(
    sample_id: str,
    turns: Sequence[tuple[str, str]],
    image: str | None,
    placeholder_last: bool = False,
) -> dict[str, Any]:
    """One row of LLaVA-665k: `<image>` stands before or after the first question, as in the published file."""
    conversations = []
    for index, (question, answer) in enumerate(turns):
        if image is not None and index == 0:
            question = f"{question}\n<image>" if placeholder_last else f"<image>\n{question}"
        conversations += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    picture = {} if image is None else {"image": image}
    return {"id": sample_id, **picture, "conversations": conversations}


def caption_members(key: str, jpeg: bytes, caption: str) -> list[tuple[str, bytes]]:
    """The three members of a CC3M sample as img2dataset writes them: KEY.jpg, KEY.txt, KEY.json."""
    metadata = json.dumps({"key": key, "caption": caption, "status": "success"}).encode()
    return [(f"{key}.jpg", jpeg), (f"{key}.txt", caption.encode()), (f"{key}.json", metadata)]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A tar with neither times nor owners, so that equal members give equal bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def coco_captions(captions: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """COCO caption annotations of pictures by file name."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(captions, start=1)]
    annotations = [
        {"image_id": image["id"], "caption": caption}
        for image in images
        for caption in captions[str(image["file_name"])]
    ]
    return {
        "images": images,
        "annotations": [{**row, "id": number} for number, row in enumerate(annotations, start=1)],
    }
