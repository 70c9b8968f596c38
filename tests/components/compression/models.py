"""A tiny random base model and a compressor on it, saved side by side as the stages leave them."""

from pathlib import Path

from components.methods.checkpoint import save_compressor
from components.pictures import PictureLimits
from tests.components.model.tiny import compressor, write_tiny_llava

LIMITS = PictureLimits(
    formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"),
    max_pixels=10_000_000,
    max_aspect_ratio=20.0,
    max_side=8000,
    min_side=1,
)


def write_models(folder: Path) -> Path:
    """Write folder/tiny-llava and folder/compressor; returns the latter."""
    base, trained = write_tiny_llava(folder / "tiny-llava"), folder / "compressor"
    trained.mkdir()
    save_compressor(compressor(base), trained, {})
    return trained
