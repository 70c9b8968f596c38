from typing import get_args

from components.curation.reasons import Reason, Rejected, Repair, rejected_picture
from components.drawn_world import broken
from components.files.tars import TarReason
from components.pictures import PICTURE_REASONS, PICTURE_REPAIRS, PictureError


def test_reasons_cover_every_reason_and_repair_of_a_picture() -> None:
    assert set(PICTURE_REASONS) <= set(Reason)
    assert set(PICTURE_REPAIRS) <= set(Repair)


def test_rejected_picture_keeps_reason_and_detail() -> None:
    rejected = rejected_picture(PictureError("truncated", "12 bytes short"))
    assert (rejected.reason, rejected.detail) == (Reason.TRUNCATED, "12 bytes short")


def test_rejected_is_not_swallowed_by_handlers_of_bad_values() -> None:
    assert not issubclass(Rejected, ValueError | OSError)


def test_faults_of_the_demo_world_expect_known_reasons() -> None:
    expected = {
        fault[-1] for fault in (*broken.PICTURE_FAULTS, *broken.ROW_FAULTS, *broken.CAPTION_FAULTS)
    }
    assert expected - {broken.REPAIRED} <= set(Reason)


def test_what_can_be_wrong_with_a_tar_is_a_reason_of_a_row() -> None:
    assert set(get_args(TarReason)) <= set(Reason)
