"""Low-pass filters of StyleGAN3 by Kaiser's method (Karras et al. 2021, Appendix C), with sum 1.

    h[t] = 2·f_c·sinc(2·f_c·t) · w_K(t)                       separable
    h[x, y] = J₁(2π·f_c·r) / r · w_K(x)·w_K(y)                radial, r = √(x² + y²)

The window's shape β follows from its attenuation A = 2.285·(n − 1)·π·(2·f_h / (s/2)) + 7.95 dB for n taps at the rate s
and a transition band of half-width f_h (Kaiser 1974).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.floating[Any]]


def separable(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """The filter [taps] in float32; frequencies in cycles a picture width, `rate` in samples a picture width."""
    t = _places(taps) / rate
    return _normalised(np.sinc(2.0 * cutoff * t) * _window(taps, half_width, rate))


def radial(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """The filter [taps, taps] in float32, `taps` even: the same in all directions but for its window."""
    t = _places(taps) / rate
    r = np.hypot(t[:, None], t[None, :])
    jinc = torch.special.bessel_j1(torch.from_numpy(2.0 * np.pi * cutoff * r)).numpy() / r
    window = _window(taps, half_width, rate)
    return _normalised(jinc * np.outer(window, window))


def _places(taps: int) -> Values:
    return np.arange(taps) - (taps - 1) / 2.0


def _window(taps: int, half_width: float, rate: float) -> Values:
    attenuation = 2.285 * (taps - 1) * math.pi * (2.0 * half_width / (rate / 2.0)) + 7.95
    return np.kaiser(taps, _shape(attenuation))


def _shape(attenuation: float) -> float:
    """Kaiser's β for an attenuation in dB."""
    if attenuation > 50.0:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21.0:
        return 0.5842 * math.pow(attenuation - 21.0, 0.4) + 0.07886 * (attenuation - 21.0)
    return 0.0


def _normalised(values: Values) -> Tensor:
    return torch.from_numpy((values / values.sum()).astype(np.float32))
