from __future__ import annotations

import subprocess
import sys


def _output(code: str) -> str:
    """What code prints in an interpreter that has no Triton."""
    script = f"import sys\nsys.modules['triton'] = None\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_every_kernel_and_generator_can_be_imported_and_layers_run_by_the_reference() -> None:
    code = """
import importlib, pkgutil, torch
import impasto.generators, impasto.kernels
from impasto.kernels import routing
from impasto.kernels.epilogue import Epilogue
from impasto.kernels.modulated_layer import modulated_layer
names = []
for package in (impasto.kernels, impasto.generators):
    names += [importlib.import_module(module.name).__name__ for module in
              pkgutil.iter_modules(package.__path__, package.__name__ + '.')]
assert {'impasto.kernels.styles', 'impasto.generators.stylegan2_kernels'} <= set(names)
cuda = torch.device('cuda')
assert not routing.launches_on(cuda)
shape = routing.Shape(2, 3, 4, 4, up=True)
form = routing.route(shape, torch.float16, launches=routing.launches_on(cuda), table={shape.key: 'folded'})
layer = modulated_layer(torch.ones(3, 2, 3, 3), torch.float32, form=form, up=True)
y = layer(torch.ones(1, 2, 4, 4), torch.ones(1, 2), Epilogue(linear=True))
print(form, tuple(y.shape), y[0, 0, 4, 4].item())
"""
    # Nine taps of ones over two channels, spread over four pixels by a filter of gain four.
    assert _output(code) == "reference (1, 3, 8, 8) 18.0\n"


def test_a_picture_is_made_in_torch_on_the_cpu() -> None:
    code = """
import impasto
picture, = impasto.load('starry', backend='torch', threads=1).generate(seeds=7)
print(picture.array.shape, picture.array.std() > 10)
"""
    assert _output(code) == "(128, 128, 3) True\n"
