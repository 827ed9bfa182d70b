"""The layers of a StyleGAN2 generator, each with what follows its sums: noise, bias, leaky ReLU, clamp."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.closeness import disagreement
from benchmarks.gpu.case import EVERY_ROW, Case, Form, pure
from impasto.kernels import demodulation, epilogue, modulated_conv, modulated_conv_up, routing, styles, to_rgb, upfirdn
from impasto.kernels.epilogue import Epilogue
from impasto.kernels.modulated_conv import pack_weight
from impasto.kernels.modulated_layer import modulated_layer
from impasto.kernels.routing import FORMS, Shape
from impasto.kernels.styles import Affine

CLAMP = 256.0
TF32 = 2.0**-9
"""What may be lost where factors are cut to ten bits."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """x [N, I, H, W] channels-last, weight [O, I, k, k] and styles [N, I] exact in x's dtype, and an epilogue."""

    x: Tensor
    weight: Tensor
    styles: Tensor
    epilogue: Epilogue

    def of(self, rows: slice) -> Layer:
        """The layer of some rows."""
        factors, noise = self.epilogue.demodulation, self.epilogue.noise
        assert factors is not None
        assert noise is not None
        parts = dataclasses.replace(self.epilogue, demodulation=factors[rows], noise=noise[rows])
        return dataclasses.replace(self, x=self.x[rows], styles=self.styles[rows], epilogue=parts)


def make_layer(
    n: int,
    dtype: torch.dtype,
    device: torch.device,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    size: int,
    up: int,
) -> Layer:
    """Random arguments; the weight stays exact even when the up-sampling filter is folded in."""
    torch.manual_seed(inputs + height)
    x = torch.randn(n, inputs, height, width, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randint(-2, 3, (outputs, inputs, size, size), device=device) / 2.0
    weight[:, 0, 0, 0] = 1.0
    styles = (0.5 + torch.rand(n, inputs, device=device)).to(dtype).float()
    factors = modulated_conv.demodulation(styles, modulated_conv.squared_weights(weight))
    noise = torch.randn(n, up * height, up * width, device=device)
    strength, bias = torch.tensor(0.3, device=device), torch.randn(outputs, device=device)
    return Layer(x, weight, styles, Epilogue(factors, noise, strength, bias, clamp=CLAMP))


def plain(
    n: int, dtype: torch.dtype, device: torch.device, inputs: int, outputs: int, height: int, width: int, size: int
) -> Case:
    """A layer that keeps the size, with a kernel of `size`²."""
    layer = make_layer(n, dtype, device, inputs, outputs, height, width, size, up=1)
    # No layer but toRGB is 1×1, and that one has a kernel of its own: nothing is routed there.
    forms = _forms(layer, up=False) if size == 3 else _own_forms(layer, {"plain": None})
    rivals = {"eager": _eager(layer, None), "textbook": _textbook(layer, up=False)}
    return _case(layer, forms, rivals, operations=2 * size * size * inputs * outputs * n * height * width)


def up(n: int, dtype: torch.dtype, device: torch.device, inputs: int, outputs: int, height: int, width: int) -> Case:
    """A layer that doubles the size."""
    layer = make_layer(n, dtype, device, inputs, outputs, height, width, 3, up=2)
    rivals = {f"eager {name}": _eager(layer, name) for name in ("folded", "transposed")}
    rivals["textbook"] = _textbook(layer, up=True)
    return _case(layer, _forms(layer, up=True), rivals, operations=2 * 9 * inputs * outputs * n * height * width)


def _forms(layer: Layer, *, up: bool) -> dict[str, Form]:
    """Every form that `routing` knows; the one that it takes by the table of the card is the routed one."""
    dtype, device = layer.x.dtype, layer.x.device
    outputs, inputs, height, width = *layer.weight.shape[:2], *layer.x.shape[2:]
    shape = Shape(inputs, outputs, height, width, up)
    routed = routing.route(shape, dtype, launches=True, table=routing.table_of(device))
    library = [form for form in FORMS[up] if routing.of_library(form)]
    forms = _own_forms(layer, {form: form if up else None for form in FORMS[up] if form not in library})
    for form in library:
        # A library keeps its sums in the features' type, and may cut float32 to what tensor cores take.
        kept = TF32 if dtype is torch.float32 else torch.finfo(dtype).eps
        forms[form] = pure(_library(layer, form, up=up), terms=layer.weight[0].numel(), kept=kept)
    return {name: dataclasses.replace(form, routed=name == routed) for name, form in forms.items()}


def _own_forms(layer: Layer, ups: Mapping[str, str | None]) -> dict[str, Form]:
    """Forms of our kernels; in float32 both ways to multiply."""
    dtype, terms = layer.x.dtype, layer.weight[0].numel()
    forms = {}
    for name, up in ups.items():
        between = torch.finfo(dtype).eps if up == "transposed" else 0.0
        forms[name] = pure(_launcher(layer, up, "ieee"), terms=terms, kept=between)
        if dtype is torch.float32:
            forms[f"{name} tf32"] = pure(_launcher(layer, up, "tf32"), terms=terms, kept=TF32, routed=False)
    return forms


def _library(layer: Layer, form: str, *, up: bool) -> Callable[[slice], Tensor]:
    run = modulated_layer(layer.weight, layer.x.dtype, form=form, up=up)

    def rows(of: slice) -> Tensor:
        some = layer.of(of)
        return run(some.x, some.styles, some.epilogue)

    return rows


def _launcher(layer: Layer, up: str | None, precision: str) -> Callable[[slice], Tensor]:
    weight = pack_weight(layer.weight, layer.x.dtype, up=up)
    run = modulated_conv.modulated_conv if up is None else modulated_conv_up.modulated_conv_up

    def rows(of: slice) -> Tensor:
        some = layer.of(of)
        return run(some.x, weight, some.styles, some.epilogue, precision=precision)

    return rows


def _case(layer: Layer, forms: Mapping[str, Form], rivals: Mapping[str, Callable[[], object]], operations: int) -> Case:
    noise = layer.epilogue.noise
    assert noise is not None
    up = "transposed" if noise[0].numel() > layer.x[0, 0].numel() else None
    outputs = noise.numel() * layer.weight.shape[0]
    moved = (layer.x.numel() + layer.weight.numel() + outputs) * layer.x.element_size() + noise.numel() * 4

    def expected(of: slice) -> tuple[Tensor]:
        some = layer.of(of)
        sums = modulated_conv.reference(some.x.double(), some.weight.double(), some.styles.double(), up=up)
        return (epilogue.reference(sums, dataclasses.replace(some.epilogue, demodulation=None)),)

    return Case(len(layer.x), forms, expected, rivals, moved, operations)


def _eager(layer: Layer, up: str | None) -> Callable[[], Tensor]:
    """cuDNN with the shared weight, and an operation for each part of what goes before and after."""
    dtype, parts = layer.x.dtype, layer.epilogue
    assert parts.demodulation is not None
    weight = modulated_conv.fold_up_weight(layer.weight) if up == "folded" else layer.weight
    weight = weight.transpose(0, 1) if up == "transposed" else weight
    weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
    styles, factors = layer.styles.to(dtype)[:, :, None, None], parts.demodulation.to(dtype)[:, :, None, None]
    taps = upfirdn.binomial_filter().to(layer.x.device)
    finish = _eager_epilogue(layer)

    def run() -> Tensor:
        x = layer.x * styles
        if up == "transposed":
            y = _blur(functional.conv_transpose2d(x, weight, stride=2), taps)
        else:
            y = functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return finish((functional.pixel_shuffle(y, 2) if up == "folded" else y) * factors)

    return run


def _textbook(layer: Layer, *, up: bool) -> Callable[[], Tensor]:
    """A weight for each sample, and one convolution with a group for each."""
    n, inputs, height, width = layer.x.shape
    outputs, size = layer.weight.shape[0], layer.weight.shape[-1]
    taps = upfirdn.binomial_filter().to(layer.x.device)
    finish = _eager_epilogue(layer)

    def run() -> Tensor:
        weights = layer.weight[None] * layer.styles[:, None, :, None, None]
        weights = weights * (weights.square().sum(dim=(2, 3, 4), keepdim=True) + modulated_conv.EPSILON).rsqrt()
        weights = weights.to(layer.x.dtype)
        x = layer.x.reshape(1, n * inputs, height, width)
        if up:
            kernels = weights.transpose(1, 2).reshape(n * inputs, outputs, size, size)
            y = _blur(functional.conv_transpose2d(x, kernels, stride=2, groups=n), taps)
        else:
            kernels = weights.reshape(n * outputs, inputs, size, size)
            y = functional.conv2d(x, kernels, padding=size // 2, groups=n)
        return finish(y.reshape(n, outputs, *y.shape[2:]))

    return run


def _blur(y: Tensor, taps: Tensor) -> Tensor:
    return upfirdn.reference(y, taps, padding=(1, 1), gain=4.0)


def _eager_epilogue(layer: Layer) -> Callable[[Tensor], Tensor]:
    dtype, parts = layer.x.dtype, layer.epilogue
    assert parts.noise is not None
    assert parts.strength is not None
    assert parts.bias is not None
    noise, strength, bias = (
        parts.noise[:, None].to(dtype),
        parts.strength.to(dtype),
        parts.bias.to(dtype)[:, None, None],
    )

    def finish(y: Tensor) -> Tensor:
        y = functional.leaky_relu(y + noise * strength + bias, 0.2) * math.sqrt(2.0)
        return y.clamp(-CLAMP, CLAMP)

    return finish


def rgb(n: int, dtype: torch.dtype, device: torch.device, inputs: int, height: int, width: int) -> Case:
    """The picture of a block's features, added to the picture so far."""
    torch.manual_seed(inputs + height)
    x = torch.randn(n, inputs, height, width, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(3, inputs, 1, 1, device=device), torch.randn(3, device=device)
    styles, skip = torch.randn(n, inputs, device=device), torch.randn(n, 3, height // 2, width // 2, device=device)

    def ours(of: slice) -> Tensor:
        return to_rgb.to_rgb(x[of], weight, styles[of], bias, skip[of], clamp=CLAMP)

    def expected(of: slice) -> tuple[Tensor]:
        doubles = (tensor.double() for tensor in (x[of], weight, styles[of], bias, skip[of]))
        return (to_rgb.reference(*doubles, clamp=CLAMP),)

    eager = {"eager": lambda: to_rgb.reference(x, weight, styles, bias, skip, clamp=CLAMP)}
    moved = x.numel() * x.element_size() + (3 * n * height * width + skip.numel()) * 4
    return Case(n, {"": pure(ours, terms=inputs)}, expected, eager, moved)


def affines(n: int, _: torch.dtype, device: torch.device, count: int, features: int, inputs: int) -> Case:
    """The styles of so many layers from ws, every other one normalised; float32 whatever the layers' dtype."""
    torch.manual_seed(features)
    ws = torch.randn(n, count, features, device=device)
    layers = [
        Affine(torch.randn(inputs, features, device=device), torch.randn(inputs, device=device), index, index % 2 == 0)
        for index in range(count)
    ]
    packed = styles.pack(layers).to(device)

    def ours(of: slice) -> tuple[Tensor, ...]:
        return styles.styles(ws[of], packed)

    def reference(ws: Tensor) -> tuple[Tensor, ...]:
        return tuple(styles.reference(ws, layer) for layer in layers)

    form = Form(ours, lambda: ours(EVERY_ROW), functools.partial(disagreement, terms=features))
    moved = 4 * (packed.weight.numel() + ws.numel() + n * count * inputs)
    eager = {"eager": lambda: reference(ws)}
    return Case(n, {"": form}, lambda of: reference(ws[of].double()), eager, moved)


def demodulate(n: int, _: torch.dtype, device: torch.device, inputs: int, outputs: int) -> Case:
    """The factors of demodulation, of float32 whatever the layer's dtype."""
    torch.manual_seed(inputs)
    styles, squares = torch.randn(n, inputs, device=device), torch.rand(outputs, inputs, device=device)

    def ours(of: slice) -> Tensor:
        return demodulation.demodulate(styles[of], squares)

    def expected(of: slice) -> tuple[Tensor]:
        return (demodulation.reference(styles[of].double(), squares.double()),)

    eager = {"eager": lambda: demodulation.reference(styles, squares)}
    moved = 4 * (squares.numel() + styles.numel() + n * outputs)
    return Case(n, {"": pure(ours, terms=inputs)}, expected, eager, moved)
