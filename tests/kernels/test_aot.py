"""Packed kernels: the folder, its manifest and its header; the example in C++, with a driver that is not there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from impasto.cli import app
from impasto.kernels import aot
from impasto.kernels.packing.header import header

ROOT = Path(__file__).parents[2]
FAKE_DRIVER = Path(__file__).with_name("fake_cuda.c")
PACKED = ("to_image_fp32_u8_c3", "philox_words", "styles_i64", "filtered_lrelu_fp16_up2_radial")
STRICT = ("-Wall", "-Wextra", "-Werror")

needs_gcc = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("g++")), reason="needs gcc and g++")


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some kernels for two architectures."""
    folder = tmp_path_factory.mktemp("aot") / "pack"
    aot.pack(folder, [spec for spec in aot.packable() if spec.name in PACKED], [80, 90])
    return folder


@pytest.fixture(scope="session")
def cuda_headers() -> Path:
    """The folder of a cuda.h: Triton brings one."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "include"


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory, cuda_headers: Path) -> Path:
    library = tmp_path_factory.mktemp("driver") / "libcuda.so"
    _run("gcc", "-std=c11", *STRICT, "-shared", "-fPIC", "-I", cuda_headers, FAKE_DRIVER, "-o", library)
    return library


def _run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _manifest(pack: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((pack / aot.MANIFEST).read_text())
    return manifest


def _entry(pack: Path, name: str) -> dict[str, Any]:
    (kernel,) = (kernel for kernel in _manifest(pack)["kernels"] if kernel["name"] == name)
    return dict(kernel)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_folder_holds_what_the_manifest_says_and_nothing_else(pack: Path) -> None:
    manifest = _manifest(pack)
    digests = {cubin["file"]: cubin["sha256"] for kernel in manifest["kernels"] for cubin in kernel["cubins"]}
    digests[manifest["header"]["file"]] = manifest["header"]["sha256"]
    assert {file.name: _sha256(file) for file in pack.iterdir() if file.name != aot.MANIFEST} == digests
    assert len(digests) == len(PACKED) * 2 + 1


def test_the_manifest_says_how_to_launch_a_kernel(pack: Path) -> None:
    kernel = _entry(pack, "to_image_fp32_u8_c3")
    assert [(one["name"], one["type"], one["multiple_of"]) for one in kernel["arguments"]] == [
        ("p_x", "*fp32", 16),
        ("p_out", "*u8", 16),
        ("p_flags", "*i32", 16),
        ("pixels", "i32", 16),
        ("scale", "fp32", 1),
        ("offset", "fp32", 1),
        ("low", "fp32", 1),
        ("high", "fp32", 1),
        ("global_scratch", "*i8", 1),
        ("profile_scratch", "*i8", 1),
    ]
    assert [one["value"] for one in kernel["arguments"]] == [None] * 8 + ["0", "0"]
    assert kernel["arguments"][2]["meaning"] == "int32 [N], zeros"
    assert kernel["constants"] == {"CHANNELS": 3, "BLOCK": 512}
    assert kernel["grid"] == ["n * ceil_div(pixels, 512)", "1", "1"]
    assert re.fullmatch("[0-9a-f]{64}", kernel["source"]["sha256"])
    assert [cubin["architecture"] for cubin in kernel["cubins"]] == [80, 90]


def test_a_cubin_has_the_symbol_the_registers_and_as_many_parameters_as_the_manifest_says(pack: Path) -> None:
    from triton import knobs

    for kernel in _manifest(pack)["kernels"]:
        for cubin in kernel["cubins"]:
            file = pack / cubin["file"]
            usage = _run(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file)
            assert re.findall(r"Function (\w+):", usage) == [cubin["symbol"]]
            assert f"REG:{cubin['registers']} STACK:{cubin['local_memory']} " in usage
            assert cubin["local_memory"] == 0
            elf = _run(knobs.nvidia.cuobjdump.path, "--dump-elf", file)
            assert elf.count("EIATTR_KPARAM_INFO") == len(kernel["arguments"])
            assert f"sm_{cubin['architecture']}" in elf


def test_registers_that_the_assembler_would_spill_are_left_to_the_kernel(tmp_path: Path) -> None:
    names = {"group_norm_chunks_fp32_last": 100, "modulated_conv_up_fp16_p64_o64_i64_s4": 120}
    for name, architecture in names.items():
        folder = tmp_path / name
        aot.pack(folder, [spec for spec in aot.packable() if spec.name == name], [architecture])
        (cubin,) = _entry(folder, name)["cubins"]
        assert cubin["local_memory"] == 0
        assert cubin["registers"] <= aot.ENOUGH_REGISTERS


@needs_gcc
def test_the_header_is_valid_c_and_cpp(pack: Path, cuda_headers: Path, tmp_path: Path) -> None:
    for compiler, standard, suffix in (("gcc", "c11", "c"), ("g++", "c++17", "cpp")):
        source = tmp_path / f"program.{suffix}"
        source.write_text(f'#include "{aot.HEADER}"\n')
        _run(compiler, f"-std={standard}", *STRICT, "-fsyntax-only", "-I", pack, "-I", cuda_headers, source)


@needs_gcc
@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_the_example_in_cpp_writes_its_picture(
    pack: Path, cuda_headers: Path, fake_driver: Path, tmp_path: Path
) -> None:
    build, picture = tmp_path / "build", tmp_path / "gradient.ppm"
    found = (f"-DIMPASTO_KERNELS={pack}", f"-DCUDA_INCLUDE={cuda_headers}", f"-DCUDA_DRIVER={fake_driver}")
    _run("cmake", "-S", ROOT / "examples" / "cpp_kernels", "-B", build, *found)
    _run("cmake", "--build", build)
    printed = _run(build / "to_image", pack, picture, FAKE_ARCHITECTURE="90")
    assert printed == f"_to_image_kernel grid 125 1 1 block 128 1 1 shared {_shared(pack, 90)}\n{picture}: 320×200\n"
    assert picture.read_bytes().startswith(b"P6 320 200 255\n\x00\x00")
    assert picture.stat().st_size == len(b"P6 320 200 255\n") + 320 * 200 * 3


def _shared(pack: Path, architecture: int) -> int:
    cubins = _entry(pack, "to_image_fp32_u8_c3")["cubins"]
    (shared,) = (one["dynamic_shared_memory"] for one in cubins if one["architecture"] == architecture)
    assert isinstance(shared, int)
    return shared


STYLEGANS = """
#include "impasto_kernels.h"

static CUdeviceptr at(uint64_t address) { return (CUdeviceptr)address; }

int main(int count, char **folder)
{
    ImpastoKernel kernel;
    if (count != 2 || impasto_load_styles_i64(&kernel, folder[1]))
        return 1;
    printf("%d\\n", impasto_launch_styles_i64(&kernel, NULL, 18, 3, at(16), at(32), at(48), at(64), at(80), 20, 512));
    if (impasto_unload(&kernel) || impasto_load_filtered_lrelu_fp16_up2_radial(&kernel, folder[1]))
        return 1;
    printf("%d\\n", impasto_launch_filtered_lrelu_fp16_up2_radial(
        &kernel, NULL, 3, at(16), at(32), at(48), at(64), at(80), 7, 36, 36, 40, 20, 9, 9, 4, 0.2f, 1.4f, 256.0f));
    return impasto_unload(&kernel);
}
"""


@needs_gcc
def test_launchers_give_their_kernels_the_grid_of_the_manifest(
    pack: Path, cuda_headers: Path, fake_driver: Path, tmp_path: Path
) -> None:
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(STYLEGANS)
    library = fake_driver.parent
    search = ("-I", pack, "-I", cuda_headers, "-L", library, f"-Wl,-rpath,{library}")
    _run("gcc", "-std=c11", *STRICT, source, "-o", program, *search, "-lcuda")
    printed = _run(program, pack, FAKE_ARCHITECTURE="90").splitlines()
    kept = _entry(pack, "filtered_lrelu_fp16_up2_radial")["constants"]["KEPT"]
    tiles = -(-40 // kept) * -(-20 // kept)
    assert [line.partition(" block")[0] for line in printed] == [
        "_styles_kernel grid 18 3 1",
        "0",
        f"_filtered_lrelu_kernel grid {3 * 7 * tiles} 1 1",
        "0",
    ]


LAUNCHES = """
#include "impasto_kernels.h"

static CUdeviceptr at(uint64_t address) { return (CUdeviceptr)address; }

int main(int count, char **folder)
{
    ImpastoKernel kernel;
    CUresult result = impasto_load_philox_words(&kernel, folder[count - 1]);
    printf("load %d\\n", result);
    if (result != CUDA_SUCCESS)
        return 0;
    printf("from %s\\n", kernel.cubin->file);
    printf("%d\\n", impasto_launch_philox_words(&kernel, NULL, 3, at(16), at(32), at(48), at(64), 1040));
    printf("%d\\n", impasto_launch_philox_words(&kernel, NULL, 3, at(16), at(32), at(48), at(64), 1041));
    printf("%d\\n", impasto_launch_philox_words(&kernel, NULL, 3, at(24), at(32), at(48), at(64), 1040));
    printf("%d\\n", impasto_launch_philox_words(&kernel, NULL, 0, at(16), at(32), at(48), at(64), 1040));
    printf("%d\\n", impasto_launch_philox_words(&kernel, NULL, -1, at(16), at(32), at(48), at(64), 1040));
    return impasto_unload(&kernel);
}
"""


def _cubin(architecture: int, shared: int) -> aot.Cubin:
    """A kernel that was never compiled."""
    (spec,) = (spec for spec in aot.packable(["philox_normal"]) if spec.name == "philox_words")
    arguments = tuple(aot.Argument(name, type_, 16, None, None, "") for name, type_ in spec.types.items())
    return aot.Cubin(spec, architecture, b"\x7fELF", "_kernel", 4, shared, None, None, arguments, "")


def _build(folder: Path, cubins: list[aot.Cubin], cuda_headers: Path, fake_driver: Path) -> Path:
    for cubin in cubins:
        (folder / cubin.file).write_bytes(cubin.image)
    (folder / aot.HEADER).write_text(header([cubins], "3.9"))
    source, program = folder / "program.c", folder / "program"
    source.write_text(LAUNCHES)
    library = fake_driver.parent
    search = ("-I", folder, "-I", cuda_headers, "-L", library, f"-Wl,-rpath,{library}")
    _run("gcc", "-std=c11", *STRICT, source, "-o", program, *search, "-lcuda")
    return program


@needs_gcc
def test_a_launch_is_checked_and_large_shared_memory_is_asked_for(
    tmp_path: Path, cuda_headers: Path, fake_driver: Path
) -> None:
    program = _build(tmp_path, [_cubin(80, 48 * 1024), _cubin(90, 100_000)], cuda_headers, fake_driver)
    refused = ["1", "1", "0", "1", ""]  # not a multiple, not aligned, nothing to do, negative
    launched = "_kernel grid 6 1 1 block 128 1 1 shared"
    small = _run(program, tmp_path, FAKE_ARCHITECTURE="80").split("\n")
    assert small == ["load 0", "from philox_words.sm_80.cubin", f"{launched} 49152", "0", *refused]
    large = _run(program, tmp_path, FAKE_ARCHITECTURE="90").split("\n")
    expected = ["attribute 1 = 100000", "load 0", "from philox_words.sm_90.cubin", f"{launched} 100000", "0", *refused]
    assert large == expected


@needs_gcc
def test_the_device_chooses_the_cubin(tmp_path: Path, cuda_headers: Path, fake_driver: Path) -> None:
    program = _build(tmp_path, [_cubin(90, 0), _cubin(80, 0), _cubin(86, 0)], cuda_headers, fake_driver)
    for architecture, chosen in (("80", "80"), ("86", "86"), ("89", "86"), ("90", "90")):
        printed = _run(program, tmp_path, FAKE_ARCHITECTURE=architecture)
        assert f"from philox_words.sm_{chosen}.cubin" in printed
    for architecture in ("75", "100", "91"):
        assert _run(program, tmp_path, FAKE_ARCHITECTURE=architecture) == "load 209\n"  # no binary for this GPU
    missing = _run(program, tmp_path / "nowhere", FAKE_ARCHITECTURE="80")
    assert missing == "load 301\n"  # file not found


KILLED = """
import os, pathlib, signal, sys
from impasto.kernels import aot

specs = [spec for spec in aot.packable(["philox_normal"]) if spec.name == "philox_words"]
aot.pack(pathlib.Path(sys.argv[1]), specs, [80], lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.usefixtures("pack")  # what it compiles is in Triton's cache by then
def test_a_killed_pack_leaves_no_file_and_no_process(tmp_path: Path) -> None:
    # Returns when its compilers too have closed their ends of the pipe.
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "pack"], check=False, cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_a_pack_that_is_interrupted_while_it_writes_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        aot._write(tmp_path / "pack", [_cubin(80, 0)], "3.9")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kernel", "to_imago"), "impasto: kernel: found 'to_imago'; allowed is ada_norm, bias_act, "),
        (("--arch", "80,75"), "impasto: arch: found '75'; allowed is a list of 80, 86, 89, 90, 100, 120"),
        (("--arch", ""), "impasto: arch: found ''; allowed is a list of 80, 86, 89, 90, 100, 120"),
    ],
)
def test_an_unknown_kernel_or_architecture_is_one_clear_line(
    options: tuple[str, str], message: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["kernels", "pack", "--out", str(tmp_path / "pack"), *options])
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["kernels", "pack", "--out", str(tmp_path), "--kernel", "geglu"])
    assert result.exit_code == 1
    assert result.stderr == f"impasto: {tmp_path}: is there already; name a new folder\n"
