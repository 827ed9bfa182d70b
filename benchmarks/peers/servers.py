"""Impasto, NVIDIA Triton and Ray Serve: each with the same bundle, over the same protocol, on all cores."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import impasto
from benchmarks.peers.environments import RAY, TRITON, environment
from benchmarks.peers.model_cpu import model_cpu_seconds
from benchmarks.peers.process import free_port, started
from impasto.bench.grpc_target import GrpcTarget, InferenceWire
from impasto.engine.backend import available_cores
from impasto.generation import NoiseMode

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NOISE_MODE: NoiseMode = "const"
"""What every peer can make: the maps that lie with the weights."""
MAX_BATCH = 8
Server = Callable[[Path], AbstractContextManager[GrpcTarget]]


@contextmanager
def impasto_server(bundle: Path) -> Iterator[GrpcTarget]:
    """`impasto serve` as it comes, in a process of its own."""
    model, address = bundle.parent.name, f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as count_into:
        serve = ["impasto.cli", "serve", "--listen", address, "--metrics-listen", "", "--load", model]
        serve += ["--models", str(bundle.parent.parent)]
        command = [sys.executable, "-m", "benchmarks.peers.counted", count_into, *serve]
        with started(command, address, model, {"PYTHONPATH": str(ROOT)}) as pid:
            noise_mode = NOISE_MODE if "noise_mode" in _manifest(bundle)["defaults"] else None
            yield _target("impasto", address, pid, Path(count_into), impasto.__version__, noise_mode)


@contextmanager
def triton_server(bundle: Path) -> Iterator[GrpcTarget]:
    """NVIDIA Triton, its python backend and its dynamic batcher: an instance a core, each with a session of one thread.

    That is the fastest of its arrangements on a CPU; one instance with a session of all threads is slower.
    """
    home = environment(TRITON)
    binaries = home.packages / "pytriton" / "tritonserver"
    stub = binaries / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
    model, address = bundle.parent.name, f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        repository, backends, count_into = (Path(folder) / name for name in ("models", "backends", "count"))
        count_into.mkdir()
        shutil.copytree(binaries / "backends" / "python", backends / "python")
        shutil.copy(stub / "triton_python_backend_stub", backends / "python")
        version = repository / model / "1"
        version.mkdir(parents=True)
        shutil.copy(HERE / "triton_model.py", version / "model.py")
        (version.parent / "config.pbtxt").write_text(triton_config(model, bundle, count_into))
        command: list[str | Path] = [binaries / "bin" / "tritonserver", f"--model-repository={repository}"]
        command += [f"--backend-directory={backends}", "--allow-http=false", "--allow-metrics=false"]
        command += ["--grpc-address=127.0.0.1", f"--grpc-port={address.rpartition(':')[2]}"]
        libraries = [home.packages / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
        environs = {
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "PEER_PATH": f"{home.packages}{os.pathsep}{ROOT}",
        }
        with started(command, address, model, environs) as pid:
            yield _target(TRITON, address, pid, count_into, _version(home.packages, "nvidia_pytriton"))


@contextmanager
def ray_server(bundle: Path) -> Iterator[GrpcTarget]:
    """Ray Serve: its gRPC proxy, a replica a core with a session of one thread, and `@serve.batch`."""
    home = environment(RAY)
    port = free_port(2)
    model, address = bundle.parent.name, f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as count_into:
        command = [
            str(home.python),
            str(HERE / "ray_app.py"),
            str(bundle),
            str(port),
            str(available_cores()),
            count_into,
        ]
        # Ray pickles messages by the name of their module, which is the one in their .proto.
        paths = (ROOT, ROOT / "impasto" / "api")
        environs = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "RAY_USAGE_STATS_ENABLED": "0"}
        with started(command, address, model, environs) as pid:
            yield _target(RAY, address, pid, Path(count_into), _version(home.packages, "ray"))


SERVERS: Mapping[str, Server] = {"impasto": impasto_server, TRITON: triton_server, RAY: ray_server}


def triton_config(model: str, bundle: Path, count_into: Path) -> str:
    """The model's config.pbtxt."""
    manifest = _manifest(bundle)
    dims = f"{manifest['height']}, {manifest['width']}, 3"
    return f"""\
name: "{model}"
backend: "python"
max_batch_size: {MAX_BATCH}
input [{{ name: "seed" data_type: TYPE_INT64 dims: [1] }}]
output [{{ name: "image" data_type: TYPE_UINT8 dims: [{dims}] }}]
instance_group [{{ count: {available_cores()} kind: KIND_CPU }}]
dynamic_batching {{}}
parameters [
  {{ key: "bundle" value: {{ string_value: "{bundle}" }} }},
  {{ key: "count_into" value: {{ string_value: "{count_into}" }} }}
]
"""


def _target(
    system: str, address: str, pid: int, count_into: Path, version: str, noise_mode: NoiseMode | None = NOISE_MODE
) -> GrpcTarget:
    settings = {"version": version, "precision": "fp32"}
    return GrpcTarget(
        address,
        InferenceWire(noise_mode),
        system,
        settings=settings,
        pids=[pid],
        model_cpu=lambda: model_cpu_seconds(count_into),
    )


def _manifest(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    return content


def _version(packages: Path, name: str) -> str:
    """The version of a package in another environment."""
    found = next(packages.glob(f"{name}-*.dist-info"))
    return found.name.removesuffix(".dist-info").rpartition("-")[2]
