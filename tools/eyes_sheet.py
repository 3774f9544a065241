"""Draw a contact sheet of the synthetic eyes: one row per condition, named at the left."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clip_adapt.data.synthetic.eyes import CONDITIONS, draw

_LABEL = 200


def sheet(per_class: int, size: int, seed: int) -> Image.Image:
    """Return the contact sheet: ``per_class`` pictures of ``size`` pixels for each condition."""
    page = Image.new("RGB", (_LABEL + per_class * size, len(CONDITIONS) * size), "white")
    pen = ImageDraw.Draw(page)
    for row, condition in enumerate(CONDITIONS):
        strip = np.concatenate(list(draw(condition, per_class, size, seed)), axis=1)
        page.paste(Image.fromarray(strip), (_LABEL, row * size))
        pen.text((6, row * size + size // 2 - 8), condition, fill="black", font_size=15)
    return page


def main() -> None:
    """Parse the command line and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/eyes.jpg"), help="file to write")
    parser.add_argument("--per-class", type=int, default=10, help="pictures per condition")
    parser.add_argument("--size", type=int, default=96, help="edge of a picture in pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pictures")
    args = parser.parse_args()
    page = sheet(args.per_class, args.size, args.seed)
    page.save(args.out, quality=82, optimize=True)
    print(f"{args.out}: {page.width} x {page.height}, {args.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
