"""Measure a build of the embedded backbone: probes, zero-shot and speed, in one table.

    python tools/measure_lite.py --weights clip_adapt/lite/lite.safetensors --data DIR... --eyes 50

Every DIR holds ``train/`` and ``test/`` with a folder of images a class. The probe is a logistic
regression on standardised unit features with C = 1, fixed beforehand: no split chooses anything.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.transform import image_transform
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

SHOTS, SEEDS = 16, (1, 2, 3)
Split = tuple[list[np.ndarray], np.ndarray]  # images (H, W, 3) uint8, labels (N,)


class Lite:
    """The model under test with its transform and tokenizer."""

    def __init__(self, weights: Path, size: int) -> None:
        open_clip.add_model_config(weights.with_suffix(".json"))
        self.model = open_clip.create_model(
            "lite", pretrained=str(weights), force_image_size=size, force_custom_text=True
        ).eval()
        self.size = size
        self.model.visual.to(memory_format=torch.channels_last)
        self.transform = image_transform(size, is_train=False)
        self.tokenizer = open_clip.get_tokenizer("lite")

    @torch.inference_mode()
    def images(self, images: list[np.ndarray]) -> Tensor:
        """Unit features (N, D)."""
        parts = []
        for start in range(0, len(images), 64):
            pixels = [self.transform(Image.fromarray(i)) for i in images[start : start + 64]]
            batch = torch.stack(pixels).contiguous(memory_format=torch.channels_last)
            parts.append(self.model.encode_image(batch, normalize=True))
        return torch.cat(parts)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Tensor:
        """Unit features (C, D)."""
        return self.model.encode_text(self.tokenizer(texts), normalize=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--size", type=int, default=160, help="image size in pixels")
    parser.add_argument("--eyes", type=int, default=0, help="drawn test eyes a condition; 0: none")
    parser.add_argument("--coop-epochs", type=int, default=0, help="CoOp on the eyes; 0: not run")
    args = parser.parse_args()
    lite = Lite(args.weights, args.size)
    print("| data (classes) | zero-shot | 16-shot probe | 16x16-pixel probe | CoOp |")
    print("|---|---|---|---|---|")
    for folder in args.data:
        names = sorted(p.name for p in (folder / "train").iterdir())
        train, test = (read(folder / part, names) for part in ("train", "test"))
        row(lite, folder.name, names, "a photo of a {}.", train, test, 0)
    if args.eyes:
        names, train, test = eyes(args.eyes)
        row(lite, "drawn eyes", names, "an eye with {}.", train, test, args.coop_epochs)
    threads = torch.get_num_threads()
    print(f"\nforward: {speed(lite):.0f} images/s at {args.size} px, {threads} threads")


def read(folder: Path, names: list[str]) -> Split:
    """All images of a split; a class without a folder contributes none."""
    files = [(p, i) for i, n in enumerate(names) for p in sorted((folder / n).glob("*"))]
    images = [np.asarray(Image.open(p).convert("RGB")) for p, _ in files]
    return images, np.array([label for _, label in files])


def eyes(per_class: int, size: int = 160) -> tuple[list[str], Split, Split]:
    """Drawn eyes: 64 a condition to draw support from, ``per_class`` to test."""
    from clip_adapt.data.synthetic.eyes import CONDITIONS, draw

    def split(n: int, seed: int) -> Split:
        images = [image for name in CONDITIONS for image in draw(name, n, size, seed)]
        return images, np.repeat(np.arange(len(CONDITIONS)), n)

    return list(CONDITIONS), split(64, 0), split(per_class, 1)


def row(
    lite: Lite, title: str, names: list[str], template: str, train: Split, test: Split, epochs: int
) -> None:
    """One line of the table, in per cent."""
    z_train, z_test = lite.images(train[0]), lite.images(test[0])
    weights = lite.texts([template.format(n.replace("_", " ")) for n in names])
    zero_shot = accuracy((z_test @ weights.T).argmax(1).numpy(), test[1])
    supports = [support(train[1], seed) for seed in SEEDS]
    probes = [probe(z_train.numpy(), train[1], z_test.numpy(), test[1], s) for s in supports]
    pixels = [tiny(split[0]) for split in (train, test)]
    floors = [probe(pixels[0], train[1], pixels[1], test[1], s) for s in supports]
    learned = "-"
    if epochs:
        tuned = coop(lite, names, z_train[supports[0]], train[1][supports[0]], epochs)
        learned = f"{accuracy(tuned(z_test), test[1]):.1f}"
    cells = [f"{title} ({len(names)})", f"{zero_shot:.1f}", spread(probes), spread(floors), learned]
    print(f"| {' | '.join(cells)} |", flush=True)


def support(labels: np.ndarray, seed: int) -> np.ndarray:
    """Indices of ``SHOTS`` images of every class."""
    rng = np.random.default_rng(seed)
    parts = [rng.permutation(np.flatnonzero(labels == c))[:SHOTS] for c in np.unique(labels)]
    return np.concatenate(parts)


def probe(
    z: np.ndarray, y: np.ndarray, z_test: np.ndarray, y_test: np.ndarray, s: np.ndarray
) -> float:
    """Accuracy of a linear probe fitted on the rows ``s``."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    return accuracy(classifier.fit(z[s], y[s]).predict(z_test), y_test)


def tiny(images: list[np.ndarray]) -> np.ndarray:
    """16 x 16 pixels, flat: (N, 768)."""
    small = [Image.fromarray(i).resize((16, 16), Image.Resampling.BICUBIC) for i in images]
    return np.stack([np.asarray(i, np.float32).ravel() / 255 for i in small])


def coop(lite: Lite, names: list[str], z: Tensor, y: np.ndarray, epochs: int):
    """CoOp (Zhou et al. 2022), 16 shared context vectors: a function from features to labels."""
    torch.manual_seed(1)
    ids = lite.tokenizer([" ".join(["x"] * 16) + f" {n}." for n in names])
    text = lite.model.text
    context = torch.nn.Parameter(torch.randn(16, text.token_embedding.embedding_dim) * 0.02)

    def swap(_module, _inputs, rows: Tensor) -> Tensor:
        return torch.cat([rows[:, :1], context.expand(len(rows), -1, -1), rows[:, 17:]], 1)

    lite.model.requires_grad_(False)
    hook = text.token_embedding.register_forward_hook(swap)
    width = int(ids.argmax(-1).max()) + 1

    def weights() -> Tensor:
        x = text.token_embedding(ids[:, :width]) + text.positional_embedding[:width]
        x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask[:width, :width]))
        return normalize(x[torch.arange(len(ids)), ids.argmax(-1)] @ text.text_projection, dim=-1)

    optimizer = torch.optim.SGD([context], 2e-3, momentum=0.9, weight_decay=5e-4)
    labels, scale = torch.from_numpy(y), lite.model.logit_scale.exp()
    z = z.clone()
    for epoch in range(epochs):
        rate = 1e-5 if epoch == 0 else 1e-3 * (1 + np.cos(np.pi * epoch / epochs))
        optimizer.param_groups[0]["lr"] = rate
        for rows in torch.randperm(len(z)).split(32):
            loss = cross_entropy(scale * z[rows] @ weights().T, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        learned = weights()
    hook.remove()
    return lambda features: (features @ learned.T).argmax(1).numpy()


@torch.inference_mode()
def speed(lite: Lite, rounds: int = 8) -> float:
    """Images a second of the image tower, batches of 32, best of ``rounds``."""
    pixels = torch.randn(32, 3, lite.size, lite.size).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        lite.model.encode_image(pixels)
        times.append(time.perf_counter() - start)
    return 32 / min(times)


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Per cent."""
    return 100 * float((predicted == labels).mean())


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}"


if __name__ == "__main__":
    main()
