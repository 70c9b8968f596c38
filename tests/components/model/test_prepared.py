import torch

from components.model.prepared import NO_PICTURES, PreparedPictures, merge


def test_tiles_of_smaller_pictures_are_filled_up() -> None:
    one = PreparedPictures(
        1, {"pixel_values": torch.ones(1, 2, 3, 4, 4), "image_sizes": torch.tensor([[5, 7]])}
    )
    two = PreparedPictures(
        2,
        {"pixel_values": torch.ones(2, 3, 3, 4, 4), "image_sizes": torch.tensor([[6, 8], [9, 9]])},
    )
    merged = merge([one, NO_PICTURES, two])
    assert len(merged) == 3
    assert merged.tensors["pixel_values"].shape == (3, 3, 3, 4, 4)
    assert merged.tensors["pixel_values"].flatten(2).sum(2).tolist() == [
        [48, 48, 0],
        [48] * 3,
        [48] * 3,
    ]
    assert merged.tensors["image_sizes"].tolist() == [[5, 7], [6, 8], [9, 9]]


def test_nothing_merges_to_no_pictures() -> None:
    assert not len(merge([NO_PICTURES, NO_PICTURES]))
    assert not len(merge([]))
