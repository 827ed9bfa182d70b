"""What a picture looks like as a label map: regions of a palette's colours, of a size that a person would paint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from impasto.errors import InvalidRequest
from impasto.generators.spade import SPADE
from impasto.images.pixels import Bytes, Floats
from impasto.training.crops import Crops
from impasto.training.flat_colours import random_blur
from impasto.training.state import replaced

PALETTE_FILE = "palette.gpl"
SAMPLED_CROPS, SAMPLED_PIXELS = 64, 300
"""What the palette is found in: crops, and pixels of each."""
STEPS = 30
LUMA = (0.299, 0.587, 0.114)


class LabelMaps:
    """The condition of SPADE: one-hot label maps, and z of the standard normal distribution where it takes one.

    The labels are colours that the crops have most of; they become the network's palette, and are saved with it.
    InvalidRequest if the crops have fewer colours than the network has classes.
    """

    def __init__(self, network: SPADE, crops: Crops) -> None:
        self.network = network
        network.palette.copy_(torch.from_numpy(common_colours(_sampled(crops), network.config.classes)))

    def draw(self, crop: Bytes, rng: np.random.Generator) -> Bytes:
        palette = self.network.palette.cpu().numpy()
        return palette.astype(np.uint8)[label_map(crop, palette, random_blur(rng))]

    def inputs(self, drawn: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        pixels = ((drawn + 1.0) * 127.5).round().long()
        same = _codes(pixels, 1)[:, None] == _codes(self.network.palette.long(), 1)[:, None, None]
        labels = same.float().contiguous(memory_format=torch.channels_last)
        if not self.network.config.z_dim:
            return (labels,)
        return labels, torch.randn((len(drawn), self.network.config.z_dim), generator=rng).to(drawn.device)

    def write(self, out: Path) -> None:
        """Write the palette to paint label maps with, as GIMP, Krita, Inkscape and others read it."""
        colours = self.network.palette.int().tolist()
        lines = [
            "GIMP Palette",
            "Name: labels",
            "#",
            *("{} {} {}\t{}".format(*colour, label) for label, colour in enumerate(colours)),
        ]
        with replaced(out / PALETTE_FILE) as part:
            part.write_text("\n".join(lines) + "\n", encoding="ascii")


def label_map(picture: Bytes, palette: Floats, blur: float) -> Bytes:
    """The labels [H, W] of a picture uint8 [H, W, 3], in regions no finer than `blur` pixels.

    A pixel has the label of the colour in the `palette` [labels, 3] that is nearest to it.
    """
    labels = _nearest(np.asarray(_blurred(picture, blur), np.float32), palette).astype(np.uint8)
    # What most of a pixel's neighbours are: labels have no mean and no median.
    return np.asarray(Image.fromarray(labels).filter(ImageFilter.ModeFilter(2 * round(blur) + 1)))


def common_colours(pixels: Bytes, count: int) -> Floats:
    """So many different colours [count, 3], whole numbers from 0 to 255, that are near to all pixels [P, 3].

    They are the means of k-means (Lloyd 1982, "Least squares quantization in PCM"), begun with pixels that are far from
    one another (Arthur & Vassilvitskii 2007, "k-means++"), from dark to light. The same pixels give the same colours.
    InvalidRequest if there are fewer colours.
    """
    rng = np.random.default_rng(0)
    points = pixels.astype(np.float64)
    means = points[rng.integers(len(points), size=1)]
    distances = np.full(len(points), np.inf)
    while len(means) < count:
        distances = np.minimum(distances, np.square(points - means[-1]).sum(axis=1))
        if not distances.any():
            break
        means = np.append(means, points[rng.choice(len(points), size=1, p=distances / distances.sum())], axis=0)
    for _ in range(STEPS):
        nearest = _nearest(points, means)
        counts = np.bincount(nearest, minlength=len(means))[:, None]
        sums = np.stack([np.bincount(nearest, channel, len(means)) for channel in points.T], axis=1)
        means = np.where(counts, sums / np.maximum(counts, 1), means)
    colours = np.unique(means.round(), axis=0)
    if len(colours) < count:
        raise InvalidRequest("labels", count, f"{len(colours)} or fewer: the pictures have no more colours")
    return colours[np.argsort(colours @ LUMA, kind="stable")].astype(np.float32)


def _sampled(crops: Crops) -> Bytes:
    """Pixels [P, 3] of crops, the same ones each time, without what is finer than a brush."""
    rng = np.random.default_rng(0)
    pixels = []
    for _ in range(SAMPLED_CROPS):
        crop = ((crops.batch(1, rng)[0] + 1.0) * 127.5).round().byte().permute(1, 2, 0).numpy()
        pixels.append(rng.choice(np.asarray(_blurred(crop, random_blur(rng))).reshape(-1, 3), SAMPLED_PIXELS))
    return np.concatenate(pixels)


def _blurred(picture: Bytes, blur: float) -> Image.Image:
    return Image.fromarray(picture).filter(ImageFilter.GaussianBlur(blur))


def _nearest(pixels: NDArray[np.floating], colours: NDArray[np.floating]) -> NDArray[np.intp]:
    """The place of the nearest of the colours [C, 3] for each pixel [..., 3]."""
    distances = np.square(colours).sum(axis=1) - 2.0 * pixels @ colours.T  # squared, less what a pixel adds to all
    nearest: NDArray[np.intp] = distances.argmin(axis=-1)
    return nearest


def _codes(colours: Tensor, dim: int) -> Tensor:
    """The 24 bits of each colour, whose three numbers lie along `dim`."""
    red, green, blue = colours.unbind(dim)
    return red << 16 | green << 8 | blue
