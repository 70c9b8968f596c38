"""Draw docs/images/world.png: twelve scenes of the test split, as `flows.scenes` draws them.

python -m docs.images.world
"""

from pathlib import Path

from PIL import Image

from components.drawn_world.draw import SIDE, draw_picture
from components.drawn_world.world import WorldParams, draw_scene, scene_rng

SEED = 0
INDICES = (0, 1, 10, 4, 18, 19, 6, 14, 31, 40, 35, 59)  # in the stream of test scenes
COLUMNS, SCALE, GAP = 6, 2, 8
WORLD = WorldParams(min_objects=2, max_objects=4, word_fraction=0.25)


def contact_sheet() -> Image.Image:
    """The pictures in rows, enlarged without smoothing, on a transparent ground."""
    tile = SIDE * SCALE + GAP
    rows = -(-len(INDICES) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * tile - GAP, rows * tile - GAP))
    for place, index in enumerate(INDICES):
        scene = draw_scene(scene_rng(SEED, "test", index), WORLD, allow_held_out=True)
        picture = draw_picture(scene).resize((SIDE * SCALE, SIDE * SCALE), Image.Resampling.NEAREST)
        sheet.paste(picture, (place % COLUMNS * tile, place // COLUMNS * tile))
    return sheet


if __name__ == "__main__":
    contact_sheet().save(Path(__file__).with_suffix(".png"), optimize=True)
