"""A folder laid out as the published downloads: a few rows of each, with their troubles."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from components.drawn_world import file_formats as formats

PROMPT = "Provide a one-sentence caption for the provided image."
# Rows of llava_v1_5_mix665k.json: the source that names the picture's folder, and what comes of the
# row.
FOLDERS = {
    "coco/train2017/000000033471.jpg": "kept",
    "gqa/images/2354786.jpg": "kept",
    "textvqa/train_images/0000599864fd15b3.jpg": "kept",
    "vg/VG_100K/2333010.jpg": "kept",
    "vg/VG_100K_2/2414826.jpg": "kept",
    "ocr_vqa/images/0764118943.jpg": "kept",  # lies there as a GIF
    "ocr_vqa/images/1437717772.jpg": "truncated",
    "ocr_vqa/images/0000000000.jpg": "image_missing",  # 355 of 80 000 are gone
}
NUM_MORE = 40  # rows about COCO pictures, so that there is something to train on


def picture(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Soft blobs of colour, unlike every other picture."""
    tiles = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(tiles).resize(size, Image.Resampling.BICUBIC)


def encoded(seed: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def turns(*texts: str) -> list[dict[str, str]]:
    return [
        {"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)
    ]


def write_llava_665k(root: Path) -> dict[str, str]:
    """The instruction file and its pictures; returns what each id must come to."""
    rows: list[dict[str, Any]] = []
    ends = {}
    for number, (image, end) in enumerate(FOLDERS.items()):
        name = Path(image).stem
        # ids and `<image>` before or after the question as published; several turns share the
        # picture
        question = (
            f"<image>\n{PROMPT}" if number % 2 else "What are the colors of the bus?\n<image>"
        )
        rows.append(
            {
                "id": name,
                "image": image,
                "conversations": turns(question, "white and red", "Is it big?", "no"),
            }
        )
        ends[f"llava_665k/{name}"] = end
        data = encoded(number, "GIF" if "0764118943" in image else "JPEG")
        if end != "image_missing":
            path = root / (image.replace(".jpg", ".gif") if "0764118943" in image else image)
            put(path, data[: len(data) // 2] if end == "truncated" else data)
    for number in range(NUM_MORE):
        image = f"coco/train2017/{number:012d}.jpg"
        put(root / image, encoded(100 + number, "JPEG"))
        question = (
            f"<image>\n{PROMPT}"
            if number % 2
            else "<image>\nWhat is it?\nAnswer the question using a single word."
        )
        rows.append(
            {
                "id": f"{number:012d}",
                "image": image,
                "conversations": turns(question, f"tiles {number}"),
            }
        )
        ends[f"llava_665k/{number:012d}"] = "kept"
    rows.append(
        {
            "id": "wgByO4Y_0",
            "model": "",
            "conversations": turns("How are you?", "Fine.", "Good.", "Yes."),
        }
    )
    rows.append(
        {
            "id": "no-mark",
            "image": "gqa/images/2354786.jpg",
            "conversations": turns("What is it?", "a cat"),
        }
    )
    rows.append(
        {
            "id": "000000033471",
            "image": "coco/train2017/000000033471.jpg",
            "conversations": turns("<image>\n?", "a"),
        }
    )
    ends |= {"llava_665k/wgByO4Y_0": "kept", "llava_665k/no-mark": "placeholder_mismatch"}
    ends["llava_665k/000000033471#2"] = "kept"  # public data use one id for several conversations
    (root / "llava_v1_5_mix665k.json").write_text(json.dumps(rows, indent=2))
    return ends


def write_cc3m(folder: Path) -> dict[str, str]:
    """Write two shards as img2dataset does; the second is cut inside a member."""
    folder.mkdir(parents=True)
    keys = [f"{shard:05d}{number:04d}" for shard in (0, 1) for number in range(6)]
    for shard in (0, 1):
        members = []
        for number, key in enumerate(keys[6 * shard : 6 * shard + 6]):
            caption = f"a photograph of a street with buses {key}"
            members += formats.caption_members(
                key, encoded(200 + 6 * shard + number, "JPEG"), caption
            )
        formats.write_tar(folder / f"{shard:05d}.tar", members)
        (folder / f"{shard:05d}_stats.json").write_text('{"count": 6, "successes": 6}')
        pq.write_table(
            pa.table({"key": keys[6 * shard : 6 * shard + 6]}), folder / f"{shard:05d}.parquet"
        )
    whole = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(whole[: whole.rindex(b"000010005.jpg") + 600])
    cut = {"cc3m/000010005": "missing_caption", "cc3m/00001.tar": "unreadable_shard"}
    return {f"cc3m/{key}": "kept" for key in keys[:-1]} | cut


def write_evaluation(folder: Path, first_picture: int) -> None:
    """Pictures with questions, captions and pairs in the formats of docs/data.md."""
    names = [f"val2014/COCO_val2014_{first_picture + number:012d}.jpg" for number in range(6)]
    for number, name in enumerate(names):
        put(folder / "pictures" / name, encoded(first_picture + number, "JPEG"))
    kinds = {"benchmark": "short_answer", "kind": "colour", "choices": None, "group": None}
    questions = [
        {
            "question_id": n,
            "image": name,
            "question": "What colour?",
            "answers": [("red", "blue", "white")[n % 3]],
            **kinds,
        }
        for n, name in enumerate(names)
    ]
    formats.write_json_lines(folder / "questions.jsonl", questions)
    formats.write_json(
        folder / "captions.json",
        formats.coco_captions({name: ["tiles", "colours"] for name in names}),
    )
    pair = {"filename": names[0], "caption": "red tiles", "negative_caption": "blue tiles"}
    formats.write_json(folder / "compositionality.json", {"replace_att": {"0": pair}})


def write_downloads(root: Path) -> dict[str, str]:
    """Write all that presets/llava-1.5-7b.yaml names; returns what each row must come to."""
    ends = write_llava_665k(root) | write_cc3m(root / "cc3m")
    write_evaluation(root / "evaluation/validation", 1000)
    write_evaluation(root / "evaluation/test", 2000)
    return ends
