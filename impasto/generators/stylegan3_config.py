"""Hyperparameters of StyleGAN3 and the geometry of its layers, without torch: whoever runs a graph needs them too.

Cutoffs and stopbands grow geometrically from layer to layer, and the sampling rate follows in powers of two (Karras et
al. 2021, "Alias-Free Generative Adversarial Networks", §3.2 and Appendix C).
"""

from __future__ import annotations

import dataclasses
import math

MIN_RESOLUTION = 16
MAX_RESOLUTION = 1024
MAX_LAYERS = 32
CRITICAL_LAYERS = 2
"""The last layers before toRGB, of which the cutoff is half the sampling rate, as a picture's is."""
FIRST_CUTOFF = 2.0
FIRST_STOPBAND = 2.0**2.1
LAST_STOPBAND = 2.0**0.3
"""Of the last layer, in units of its cutoff."""
MARGIN = 10
"""Pixels that a feature map has beyond each side of the picture, at its own sampling rate."""
OVERSAMPLING = 2
"""The rate at which leaky ReLU is applied, in units of the higher one of a layer's input and output."""
TAPS_PER_FACTOR = 6


@dataclasses.dataclass(frozen=True)
class Signal:
    """A feature map: `rate` in pixels a picture width, `cutoff` and `half_width` (of the transition) in cycles a width.

    `size` is its side in pixels with the margins; a picture's width is 1.
    """

    rate: int
    cutoff: float
    half_width: float
    size: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: a convolution of `kernel`² taps on `source`, then up, leaky ReLU and down to `target`.

    Filters of one tap are none. `radial` down-sampling filters are 2-D. `padding` is (before, after) in up-sampled
    pixels, negative where it crops.
    """

    name: str
    source: Signal
    target: Signal
    kernel: int
    up: int
    down: int
    up_taps: int
    down_taps: int
    radial: bool
    is_torgb: bool

    @property
    def padding(self) -> tuple[int, int]:
        convolved = self.source.size + self.kernel - 1
        total = (self.target.size - 1) * self.down + 1 - convolved * self.up + self.up_taps + self.down_taps - 2
        before = (total + self.up) // 2
        return before, total - before


@dataclasses.dataclass(frozen=True)
class StyleGAN3Config:
    """Hyperparameters of a generator; the defaults are those of configuration T.

    `resolution` is a power of two from 16 to 1024. `num_layers` counts the layers before toRGB. Configuration R has
    `conv_kernel` 1 and `radial_filters`, and twice T's channels. `conv_clamp` bounds activations (None: no bound).
    """

    resolution: int
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0
    img_channels: int = 3
    mapping_layers: int = 2
    mapping_lr_multiplier: float = 0.01
    channel_base: int = 32768
    channel_max: int = 512
    num_layers: int = 14
    conv_kernel: int = 3
    radial_filters: bool = False
    conv_clamp: float | None = 256.0

    def __post_init__(self) -> None:
        levels = math.log2(self.resolution) if self.resolution > 0 else 0.0
        if levels != int(levels) or not MIN_RESOLUTION <= self.resolution <= MAX_RESOLUTION:
            raise ValueError(
                f"resolution: found {self.resolution}; "
                f"allowed is a power of two from {MIN_RESOLUTION} to {MAX_RESOLUTION}"
            )
        for name in ("z_dim", "w_dim", "img_channels", "mapping_layers", "channel_base", "channel_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}; allowed is 1 or more")
        if self.c_dim < 0:
            raise ValueError(f"c_dim: found {self.c_dim}; allowed is 0 or more")
        if not CRITICAL_LAYERS < self.num_layers <= MAX_LAYERS:
            raise ValueError(
                f"num_layers: found {self.num_layers}; allowed is an integer from {CRITICAL_LAYERS + 1} to {MAX_LAYERS}"
            )
        if self.conv_kernel not in (1, 3):
            raise ValueError(f"conv_kernel: found {self.conv_kernel}; allowed is 1 or 3")
        if self.signals[-2].channels < 1:
            raise ValueError(f"channel_base: found {self.channel_base}; allowed is {self.resolution} or more")

    @property
    def num_ws(self) -> int:
        """How many rows of w a picture takes: the input's, one for each layer, toRGB's."""
        return self.num_layers + 2

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The output of each layer and of toRGB, in order; the first is also that of the input."""
        return tuple(self._signal(index) for index in range(self.num_layers + 1))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in order, toRGB last."""
        signals = self.signals
        return tuple(self._layer(index, signals[max(index - 1, 0)], signals[index]) for index in range(len(signals)))

    def _signal(self, index: int) -> Signal:
        growth = min(index / (self.num_layers - CRITICAL_LAYERS), 1.0)
        nyquist = self.resolution / 2
        cutoff = FIRST_CUTOFF * (nyquist / FIRST_CUTOFF) ** growth
        stopband = FIRST_STOPBAND * (nyquist * LAST_STOPBAND / FIRST_STOPBAND) ** growth
        rate = 2 ** math.ceil(math.log2(min(2.0 * stopband, self.resolution)))
        is_torgb = index == self.num_layers
        return Signal(
            rate=rate,
            cutoff=cutoff,
            half_width=max(stopband, rate / 2) - cutoff,
            size=self.resolution if index >= self.num_layers - 1 else rate + 2 * MARGIN,
            channels=self.img_channels if is_torgb else round(min(self.channel_base / 2 / cutoff, self.channel_max)),
        )

    def _layer(self, index: int, source: Signal, target: Signal) -> Layer:
        is_torgb = index == self.num_layers
        highest = max(source.rate, target.rate) * (1 if is_torgb else OVERSAMPLING)
        up, down = highest // source.rate, highest // target.rate
        return Layer(
            name=f"L{index}_{target.size}_{target.channels}",
            source=source,
            target=target,
            kernel=1 if is_torgb else self.conv_kernel,
            up=up,
            down=down,
            up_taps=1 if is_torgb else TAPS_PER_FACTOR * up,
            down_taps=1 if is_torgb else TAPS_PER_FACTOR * down,
            radial=self.radial_filters and index < self.num_layers - CRITICAL_LAYERS,
            is_torgb=is_torgb,
        )
