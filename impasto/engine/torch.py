"""The torch backend: the bundle's weights through the reference kernels, on the CPU or a CUDA device."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file

from impasto.engine.backend import Feeds, in_buckets
from impasto.engine.picture import Floats
from impasto.errors import BackendUnavailable
from impasto.export.bundle import WEIGHTS, Bundle
from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan2_frozen import FrozenMapping, FrozenSynthesis


class TorchBackend:
    """The two networks of a generator in float32. On a CPU rows run one at a time, on CUDA in padded buckets."""

    def __init__(self, bundle: Bundle, device: str, threads: int | None) -> None:
        self._device = _device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        self._buckets = bundle.manifest.buckets if self._device.type == "cuda" else (1,)
        generator = StyleGAN2(StyleGAN2Config(**bundle.manifest.config))
        generator.load_state_dict({key: tensor.float() for key, tensor in load_file(bundle.path / WEIGHTS).items()})
        generator.eval().requires_grad_(False)
        self._networks: dict[str, torch.nn.Module] = {
            "mapping": FrozenMapping(generator.mapping).to(self._device),
            "synthesis": FrozenSynthesis(generator.synthesis).to(self._device),
        }

    @property
    def batches(self) -> tuple[int, ...]:
        return self._buckets

    def run(self, graph: str, feeds: Feeds) -> Floats:
        return in_buckets(lambda batch: self._run(graph, batch), feeds, self._buckets)

    def one_at_a_time(self) -> None:
        self._buckets = (1,)

    def close(self) -> None:
        self._networks.clear()

    @torch.inference_mode()
    def _run(self, graph: str, feeds: Feeds) -> Floats:
        inputs = {name: torch.from_numpy(np.ascontiguousarray(rows)).to(self._device) for name, rows in feeds.items()}
        result: Floats = self._networks[graph](**inputs).cpu().numpy()
        return result


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
