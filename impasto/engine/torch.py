"""The torch backend: the bundle's weights on the CPU, in float32 or bfloat16, or on a CUDA device."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file

from impasto.engine.backend import Backend, Feeds, available_cores
from impasto.engine.cores import Cores
from impasto.engine.layer_noise import Noise
from impasto.engine.picture import Floats, Pixels
from impasto.errors import BackendUnavailable
from impasto.export.bundle import WEIGHTS, Bundle
from impasto.generators import stylegan3_frozen
from impasto.generators.families import family_of
from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan2_cpu import bfloat16_synthesis, cpu_mapping, float32_synthesis
from impasto.generators.stylegan3 import StyleGAN3
from impasto.generators.stylegan3_config import StyleGAN3Config


def open_torch(bundle: Bundle, precision: str, device: str, threads: int | None) -> Backend:
    """The backend on "cpu", "cuda" or "cuda:N". BackendUnavailable where it is not there, or not in that precision."""
    where = _device(device)
    if where.type == "cuda":
        if bundle.manifest.family != "stylegan2":
            raise BackendUnavailable(
                f"device: found {device!r}; {bundle.manifest.family} runs on cpu with backend torch; "
                "remedy: backend onnxruntime"
            )
        from impasto.engine.cuda import open_cuda

        return open_cuda(load_generator(bundle), precision, where, bundle.manifest.buckets)
    return CpuBackend(_networks(bundle, precision), threads or available_cores())


def load_generator(bundle: Bundle) -> StyleGAN2:
    """The bundle's generator in float32, on the CPU."""
    generator = StyleGAN2(StyleGAN2Config(**bundle.manifest.config))
    _load(generator, bundle)
    return generator


def _load(generator: torch.nn.Module, bundle: Bundle) -> None:
    generator.load_state_dict({key: tensor.float() for key, tensor in load_file(bundle.path / WEIGHTS).items()})
    generator.eval().requires_grad_(False)


class CpuBackend:
    """Networks by the names of the bundle's graphs, each row by itself: one on all cores, several side by side."""

    def __init__(self, networks: dict[str, torch.nn.Module], cores: int) -> None:
        self.lanes = cores
        self._networks = networks
        self._cores = Cores(cores)

    @property
    def batches(self) -> tuple[int, ...]:
        # Every number of rows above one runs as two do.
        return (1, 2)

    def run(self, graph: str, feeds: Feeds) -> Floats:
        count = len(next(iter(feeds.values())))
        rows = [{name: values[i : i + 1] for name, values in feeds.items()} for i in range(count)]
        return np.concatenate(self._cores.run(lambda row: self._run(graph, row), rows))

    def pictures(self, ws: Floats, noise: Noise) -> list[Pixels]:
        return [Pixels(chw=picture) for picture in self.run("synthesis", {"ws": ws, "noise": noise.rows()})]

    def one_at_a_time(self) -> None:
        self._cores.one_at_a_time()

    def close(self) -> None:
        self._cores.close()
        self._networks.clear()

    @torch.inference_mode()
    def _run(self, graph: str, feeds: Feeds) -> Floats:
        inputs = {name: torch.from_numpy(np.ascontiguousarray(rows)) for name, rows in feeds.items()}
        result: Floats = self._networks[graph](**inputs).numpy()
        return result


def _networks(bundle: Bundle, precision: str) -> dict[str, torch.nn.Module]:
    family = bundle.manifest.family
    if family == "stylegan2":
        return _stylegan2(bundle, precision)
    if precision != "fp32":
        raise BackendUnavailable(f"precision: found {precision!r}; models of the family {family} run in fp32")
    return _stylegan3(bundle) if family == "stylegan3" else _of_family(bundle)


def _stylegan2(bundle: Bundle, precision: str) -> dict[str, torch.nn.Module]:
    generator = load_generator(bundle)
    return {"mapping": cpu_mapping(generator.mapping), "synthesis": _synthesis(generator, precision)}


def _stylegan3(bundle: Bundle) -> dict[str, torch.nn.Module]:
    generator = StyleGAN3(StyleGAN3Config(**bundle.manifest.config))
    _load(generator, bundle)
    return {
        "mapping": cpu_mapping(generator.mapping),
        "synthesis": stylegan3_frozen.FrozenSynthesis(generator.synthesis),
    }


def _of_family(bundle: Bundle) -> dict[str, torch.nn.Module]:
    family = family_of(bundle.manifest.family)
    generator = family.load(family.config(**bundle.manifest.config), load_file(bundle.path / WEIGHTS))
    return {name: graph.module for name, graph in family.graphs(generator).items()}


def _synthesis(generator: StyleGAN2, precision: str) -> torch.nn.Module:
    if precision == "fp32":
        return float32_synthesis(generator.synthesis)
    if precision != "bf16":
        raise BackendUnavailable(f"precision: found {precision!r} on cpu; allowed is fp32 or bf16")
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise BackendUnavailable("precision: found 'bf16', but this CPU has no AVX-512 for it; remedy: precision fp32")
    return bfloat16_synthesis(generator.synthesis)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendUnavailable(f"device: found {name!r}; allowed is cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise BackendUnavailable(f"device: found {name!r}; allowed is cpu, cuda or cuda:N")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise BackendUnavailable(
            f"device: found {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices; remedy: install a CUDA "
            "build of torch and an NVIDIA driver, or ask for cpu"
        )
    return device
