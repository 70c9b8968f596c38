from pathlib import Path

from components.answering.questions import Reject
from components.answering.results import is_manifest, is_rejects, rejects_bytes


def test_rejects_are_told_from_other_files(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl.rejects.jsonl"
    path.write_bytes(rejects_bytes([Reject(1, "1", "a", "too_long", "why")]))
    assert is_rejects(path)
    assert not is_manifest(path)
    for text in ("mine", '{"row": 1}\n', "[]", "[" * 100_000):
        path.write_text(text)
        assert not is_rejects(path)
