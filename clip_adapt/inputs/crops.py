"""Random views of many images in a few operations, on the device that holds the images.

    out = Wy round(X Wx')        Wx (S, W), Wy (S, H): what the bicubic filter weighs a pixel by

The filter is that of Pillow and of torchvision with antialiasing: Keys 1981 with a = -1/2, widened
where an image shrinks. Images of different sizes and boxes lie in one canvas; a row of zero weights
hides what fills it up. As there, values are rounded and cut off at 0 and 255 between the two passes
and behind them, and the weights of an image that torchvision scales are rounded to 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clip_adapt.data.decoding import Decoded
from clip_adapt.inputs.views import ViewParameters
from clip_adapt.system.machine import fits, send

TOGETHER = 32  # views at a time; more would take a GB at 224 pixels


class Crops:
    """Images that are held as uint8, and random views of them.

    They lie on the device when a quarter of its memory holds them; if not, the crops of a batch are
    sent.

    Args:
        images: of any sizes.
        device: where views are made.
        size: S, the edge of a view.
    """

    def __init__(self, images: Sequence[Decoded], device: torch.device, size: int) -> None:
        self.device, self.size = device, size
        self.is_picture = [not isinstance(image, Tensor) for image in images]
        self.images = [_to_uint8(image) for image in images]  # (H, W, 3) each
        self.shapes = [(image.shape[0], image.shape[1]) for image in self.images]
        areas = torch.tensor([height * width for height, width in self.shapes])
        self.starts = (areas.cumsum(0) - areas).tolist()
        self.pixels: Tensor | None = None  # (P, 3), image by image
        if fits(3 * int(areas.sum()), device):
            self.pixels = send(torch.cat([image.flatten(0, 1) for image in self.images]), device)
            self.images.clear()

    def make_views(self, rows: Sequence[int], draws: Sequence[ViewParameters]) -> Tensor:
        """Return views (n, 3, S, S), whole numbers from 0 to 255 as float32.

        Args:
            rows: which images.
            draws: what was drawn for each.
        """
        parts = range(0, len(rows), TOGETHER)
        made = [self._make_batch(rows[i : i + TOGETHER], draws[i : i + TOGETHER]) for i in parts]
        return made[0] if len(made) == 1 else torch.cat(made)

    def _make_batch(self, rows: Sequence[int], draws: Sequence[ViewParameters]) -> Tensor:
        # What differs from view to view is one small tensor of facts, sent to the device once.
        boxes = torch.tensor([draw.box for draw in draws])  # left, top, right, bottom
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        turned = scales_columns_first(width, height, self.size)
        # A picture that is scaled along its columns first is laid down turned, so that the first
        # pass always runs along the last axis, and turned back at the end.
        first, second = torch.where(turned, height, width), torch.where(turned, width, height)
        mirrored = torch.tensor([draw.mirrored for draw in draws])
        # What views.py leaves to torchvision.
        coarse = (height <= width) & ~torch.tensor([self.is_picture[row] for row in rows])
        facts = torch.stack([first, second, mirrored & ~turned, mirrored & turned, coarse, turned])
        first, second, flip, tip, coarse, back = send(facts, self.device)
        canvas = self._fill_canvas(rows, boxes, turned, facts[:2].amax(1).tolist())
        along = compute_filter(first, flip, coarse, canvas.shape[3], self.size)  # (n, S, first)
        across = compute_filter(second, tip, coarse, canvas.shape[2], self.size)  # (n, S, second)
        scaled = _round_pixels(canvas.float().flatten(1, 2) @ along.mT)  # (n, 3 * second, S)
        made = _round_pixels(across[:, None] @ scaled.unflatten(1, (3, -1)))  # (n, 3, S, S)
        return _apply_light(torch.where(back[:, None, None, None] > 0, made.mT, made), draws)

    def _fill_canvas(
        self, rows: Sequence[int], boxes: Tensor, turned: Tensor, room: list[int]
    ) -> Tensor:
        # The crops (n, 3, second, first), uint8: what is scaled first lies along the last axis.
        first, second = room
        if self.pixels is None:
            return send(self._cut_crops(rows, boxes, turned, room), self.device)
        width = torch.tensor([self.shapes[row][1] for row in rows])
        left, top, right, bottom = boxes.unbind(1)
        # The place of each pixel of a crop in the one list of all pixels: a start, and a step along
        # either axis. What fills the canvas up repeats the last pixel; its weights are zero.
        begin = torch.tensor([self.starts[row] for row in rows]) + top * width + left
        across, down = (right - left - 1, torch.ones_like(width)), (bottom - top - 1, width)
        pairs = [torch.where(turned, d, a) for a, d in zip(across, down, strict=True)]
        pairs += [torch.where(turned, a, d) for a, d in zip(across, down, strict=True)]
        facts = send(torch.stack([begin, *pairs]), self.device)[:, :, None, None]
        start, last, step, end, stride = facts  # (n, 1, 1)
        x = torch.arange(first, device=self.device).minimum(last) * step
        y = torch.arange(second, device=self.device)[:, None].minimum(end) * stride
        index = start + y + x  # (n, second, first)
        found = self.pixels.index_select(0, index.flatten())
        return found.view(*index.shape, 3).permute(0, 3, 1, 2)

    def _cut_crops(
        self, rows: Sequence[int], boxes: Tensor, turned: Tensor, room: list[int]
    ) -> Tensor:
        canvas = torch.zeros(len(rows), 3, room[1], room[0], dtype=torch.uint8)
        for place, row, box, turn in zip(canvas, rows, boxes.tolist(), turned, strict=True):
            left, top, right, bottom = box
            part = self.images[row][top:bottom, left:right].permute(2, 0, 1)
            part = part.mT if turn else part
            place[:, : part.shape[1], : part.shape[2]] = part
        return canvas


def scales_columns_first(width: Tensor, height: Tensor, size: int) -> Tensor:
    """Tell which boxes Pillow 13 scales along their columns first, to (size, size).

    Found by comparison with both orders over all sizes from 12 to 136 pixels.
    """
    return (height > size) & (height - size > 2 * (width - size))


def compute_filter(
    lengths: Tensor, mirrored: Tensor, coarse: Tensor, room: int, size: int
) -> Tensor:
    """Return the weights (n, size, room) that scale lines of pixels to ``size``, as float32.

    Args:
        lengths: how many of ``room`` pixels a line has (n,).
        mirrored: whether the scaled line runs backwards (n,).
        coarse: whether weights are rounded to 16 bits, as torchvision does (n,).
        room: pixels of the canvas.
        size: pixels of the scaled line.
    """
    device = lengths.device
    # Pillow computes its weights in double precision; Metal has nothing longer than float32.
    exact = torch.float32 if device.type == "mps" else torch.float64
    to = torch.arange(size, device=device)
    to = torch.where(mirrored[:, None] > 0, size - 1 - to, to)  # (n, S)
    # Where an image shrinks the filter is widened by the same factor, which is antialiasing; where
    # it grows the filter keeps its width.
    scale = (lengths.to(exact) / size)[:, None]
    centre = ((to + 0.5) * scale)[:, :, None]
    at = torch.arange(room, device=device) + 0.5
    distance = (at - centre).abs() / scale.clamp_min(1)[:, :, None]  # (n, S, room)
    weight = torch.where(at < lengths[:, None, None], _evaluate_cubic(distance), 0.0)
    weight = weight / weight.sum(2, keepdim=True)
    return torch.where(coarse[:, None, None] > 0, _round_to_16_bits(weight), weight).float()


def _round_to_16_bits(weight: Tensor) -> Tensor:
    # The largest power of two by which all weights of an image stay below 2 ** 15.
    most = weight.amax((1, 2), keepdim=True)
    factor = torch.exp2(torch.log2((2**15 - 0.5) / most).floor())
    return (weight * factor + weight.sign() / 2).trunc() / factor


def _evaluate_cubic(t: Tensor) -> Tensor:
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


def _round_pixels(values: Tensor) -> Tensor:
    # Half up, as Pillow's integer arithmetic does; torch.round takes halves to the even number.
    return (values + 0.5).floor().clamp(0, 255)


def _apply_light(pixels: Tensor, draws: Sequence[ViewParameters]) -> Tensor:
    # As torchvision does with uint8: what is behind the point is dropped after each of the two.
    if not any(draw.light for draw in draws):
        return pixels
    # The grey that contrast turns about is the mean over a view, so a view must be whole by now.
    factors = torch.tensor([draw.light for draw in draws])
    brightness, contrast = send(factors, pixels.device).T[:, :, None, None, None]
    pixels = (pixels * brightness).clamp(0, 255).floor()
    red, green, blue = pixels.unbind(1)
    grey = (0.2989 * red + 0.587 * green + 0.114 * blue).floor().mean((1, 2))[:, None, None, None]
    return (pixels * contrast + grey * (1 - contrast)).clamp(0, 255).floor()


def _to_uint8(image: Decoded) -> Tensor:
    if isinstance(image, Tensor):
        return image.permute(1, 2, 0).contiguous()
    return torch.from_numpy(np.array(image))
