"""A 3×3 layer of StyleGAN2 in any of its forms (see `routing`), with the same arguments and, but for rounding, result.

y[n] = epilogue(conv(x[n] ⊙ s[n], W))          x [N, I, H, W], s [N, I], W [O, I, 3, 3]
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from impasto.kernels import epilogue as epilogues
from impasto.kernels import modulated_conv, modulated_conv_up, routing
from impasto.kernels.epilogue import Epilogue

Layer = Callable[[Tensor, Tensor, Epilogue], Tensor]
"""(x in channels-last memory, styles float32 [N, I], epilogue) → y in channels-last memory and x's type."""


def modulated_layer(weight: Tensor, dtype: torch.dtype, *, form: str, up: bool) -> Layer:
    """The layer with weight [O, I, 3, 3], for x of `dtype`; float32 is multiplied as such.

    For 16 bits give weight and styles as `modulated_conv.prenormalise` does. ValueError names an unknown form.
    """
    if form == routing.REFERENCE:
        return _reference(weight.to(dtype), "transposed" if up else None)
    if form not in routing.FORMS[up]:
        raise ValueError(f"form: found {form!r}; allowed: {', '.join(routing.FORMS[up])}, {routing.REFERENCE}")
    if form in _LIBRARY:
        return _LIBRARY[form](weight, dtype)
    packed = modulated_conv.pack_weight(weight, dtype, up=form if up else None)
    launch = modulated_conv_up.modulated_conv_up if up else modulated_conv.modulated_conv
    return lambda x, styles, epilogue: launch(x, packed, styles, epilogue, precision="ieee")


def _reference(weight: Tensor, up: str | None) -> Layer:
    def layer(x: Tensor, styles: Tensor, epilogue: Epilogue) -> Tensor:
        sums = modulated_conv.convolve(_scaled(x, styles), weight, up)
        return epilogues.reference(sums.float(), epilogue).to(x).contiguous(memory_format=torch.channels_last)

    return layer


def _cudnn(weight: Tensor, dtype: torch.dtype) -> Layer:
    kernel = weight.to(dtype, memory_format=torch.channels_last)

    def layer(x: Tensor, styles: Tensor, epilogue: Epilogue) -> Tensor:
        return epilogues.apply(functional.conv2d(_scaled(x, styles), kernel, padding=1), epilogue)

    return layer


def _cudnn_folded(weight: Tensor, dtype: torch.dtype) -> Layer:
    kernel = modulated_conv.fold_up_weight(weight).to(dtype, memory_format=torch.channels_last)

    def layer(x: Tensor, styles: Tensor, epilogue: Epilogue) -> Tensor:
        sums = functional.pixel_shuffle(functional.conv2d(_scaled(x, styles), kernel, padding=1), 2)
        return epilogues.apply(sums.contiguous(memory_format=torch.channels_last), epilogue)

    return layer


def _cudnn_transposed(weight: Tensor, dtype: torch.dtype) -> Layer:
    kernel = weight.transpose(0, 1).to(dtype, memory_format=torch.channels_last)

    def layer(x: Tensor, styles: Tensor, epilogue: Epilogue) -> Tensor:
        sums = functional.conv_transpose2d(_scaled(x, styles), kernel, stride=2)
        return modulated_conv_up.blurred(sums.contiguous(memory_format=torch.channels_last), epilogue)

    return layer


_LIBRARY = {"cudnn": _cudnn, "cudnn folded": _cudnn_folded, "cudnn transposed": _cudnn_transposed}


def _scaled(x: Tensor, styles: Tensor) -> Tensor:
    return x * styles.to(x.dtype)[:, :, None, None]
