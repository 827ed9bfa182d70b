"""Networks on a CUDA device, in one CUDA graph a bucket: what the torch and the tensorrt backend are there.

A graph reads buffers that never move and ends in bytes: pictures become uint8 on the card. They leave for pinned memory
on a stream of their own, while the next batch runs; the floats stay on the card until somebody asks for them.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from impasto.engine.backend import Feeds, in_buckets, padded
from impasto.engine.cuda_networks import KernelNetworks, Networks, TorchNetworks
from impasto.engine.graph import Graph, new_event, new_stream
from impasto.engine.layer_noise import Noise
from impasto.engine.picture import Floats, Pixels
from impasto.errors import BackendUnavailable
from impasto.generators.stylegan2 import StyleGAN2
from impasto.kernels import routing

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger(__name__)


Network = Callable[..., tuple[Tensor, ...]]
"""From inputs on the device, by name, to outputs on the device."""
Feeder = Callable[[Floats, Noise], Feeds]
"""From ws and noise to what the network "pictures" takes."""


def open_cuda(generator: StyleGAN2, precision: str, device: torch.device, buckets: tuple[int, ...]) -> CudaBackend:
    """A StyleGAN2 through our kernels, or without Triton through torch's operations, which are float32 alone."""
    if precision not in DTYPES:
        allowed = ", ".join(DTYPES)
        raise BackendUnavailable(f"precision: found {precision!r}; backend torch has {allowed} on {device.type}")
    networks = _networks(generator, precision, device)
    return CudaBackend({"mapping": networks.mapping, "pictures": networks.pictures}, networks.feeds, device, buckets)


class CudaBackend:
    """Networks by name on one device. Batches of several threads follow one another.

    "pictures" gives floats, bytes and flags as `impasto.engine.cuda_networks.Networks` says.
    """

    def __init__(
        self, networks: Mapping[str, Network], feeds: Feeder, device: torch.device, buckets: tuple[int, ...]
    ) -> None:
        self._device = device
        self._buckets = buckets
        self._networks = dict(networks)
        self._feeds = feeds
        self._graphs: dict[tuple[str, int], Graph] = {}
        self._lock = threading.Lock()
        with torch.cuda.device(device):
            self._compute, self._copies = new_stream(), new_stream()
            self._copied = new_event()
            # Graphs run one after the other, so that all may use the same memory between their inputs and outputs.
            self._pool = torch.cuda.graph_pool_handle()

    lanes = 0

    @property
    def batches(self) -> tuple[int, ...]:
        return self._buckets

    def run(self, graph: str, feeds: Feeds) -> Floats:
        return in_buckets(functools.partial(self._run, graph), feeds, self._buckets)

    def pictures(self, ws: Floats, noise: Noise) -> list[Pixels]:
        batches = padded(self._feeds(ws, noise), self._buckets)
        return [pixels for batch, count in batches for pixels in self._pictures(batch, count)]

    def one_at_a_time(self) -> None:
        self._buckets = (1,)

    def close(self) -> None:
        with self._lock:
            self._graphs.clear()
            self._networks.clear()

    @torch.inference_mode()
    def _run(self, name: str, feeds: Feeds) -> Floats:
        with self._lock, torch.cuda.device(self._device), torch.cuda.stream(self._compute):
            result: Floats = self._replayed(name, feeds)[0].cpu().numpy()
        return result

    @torch.inference_mode()
    def _pictures(self, feeds: Feeds, count: int) -> list[Pixels]:
        with self._lock, torch.cuda.device(self._device):
            with torch.cuda.stream(self._compute):
                outputs = self._replayed("pictures", feeds)
                floats, bytes_, flags = outputs[0][:count].clone(), outputs[1][:count], outputs[2][:count]
            self._copies.wait_stream(self._compute)
            with torch.cuda.stream(self._copies):
                hosted, found = _to_host(bytes_), _to_host(flags)
                self._copied = new_event()
                self._copied.record(self._copies)
            copied = self._copied
        copied.synchronize()
        if overflown := int(found.sum()):
            log.warning("%d of %d pictures hold NaN: the generator overflows in this precision", overflown, count)
        arrays = hosted.numpy()
        return [Pixels(hwc=arrays[row], fetch=_fetching(floats[row])) for row in range(count)]

    def _replayed(self, name: str, feeds: Feeds) -> tuple[Tensor, ...]:
        """The outputs of a graph of so many rows, in buffers that any next run writes."""
        rows = len(next(iter(feeds.values())))
        graph = self._graphs.get((name, rows))
        if graph is None:
            inputs = {field: torch.as_tensor(values, device=self._device) for field, values in feeds.items()}
            graph = Graph(self._networks[name], inputs, self._pool)
            self._graphs[name, rows] = graph
        # The last pictures must have left before their memory, which graphs share, is written again.
        self._compute.wait_event(self._copied)
        for field, values in feeds.items():
            graph.inputs[field].copy_(torch.from_numpy(np.ascontiguousarray(values)).pin_memory(), non_blocking=True)
        return graph.replay()


def _networks(generator: StyleGAN2, precision: str, device: torch.device) -> Networks:
    dtype = DTYPES[precision]
    if routing.launches_on(device):
        return KernelNetworks(generator, dtype, device, routing.table_of(device))
    if dtype is not torch.float32:
        raise BackendUnavailable(f"precision: found {precision!r}, but triton is not installed; remedy: install triton")
    return TorchNetworks(generator, device)


def _to_host(values: Tensor) -> Tensor:
    """A copy under way into pinned memory of its own, so that a result can be kept without another copy."""
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def _fetching(chw: Tensor) -> Callable[[], Floats]:
    def fetch() -> Floats:
        values: Floats = chw.cpu().numpy()
        return values

    return fetch
