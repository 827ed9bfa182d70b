"""The C header of packed kernels: for C11 and C++17, nothing but the CUDA driver API and the standard library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from impasto.kernels.aot import Argument, Cubin

C_TYPES = {"i32": "int32_t", "fp32": "float"}
NAME = r"[a-z_]\w*"

COMMON = """\
/* Written by `impasto kernels pack` with Triton %s. Link with the CUDA driver: -lcuda.
 *
 *     ImpastoKernel kernel;
 *     impasto_load_NAME(&kernel, "FOLDER OF THE CUBINS");       the device is that of the current context
 *     impasto_launch_NAME(&kernel, stream, ...);                as often as wanted, in that context
 *     impasto_unload(&kernel);
 *
 * Pointers are multiples of 16, or null where a kernel allows it, and so are the sizes that are marked; a launch with
 * others, or beyond a bound, returns CUDA_ERROR_INVALID_VALUE. A launch over nothing is none. manifest.json says more.
 */
#ifndef IMPASTO_KERNELS_H
#define IMPASTO_KERNELS_H

#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* A kernel compiled for one architecture: compute capability times ten; dynamic shared memory in bytes. */
typedef struct {
    int architecture;
    unsigned num_warps;
    unsigned shared;
    const char *symbol;
    const char *file;
} ImpastoCubin;

/* A loaded kernel. */
typedef struct {
    CUmodule module;
    CUfunction function;
    const ImpastoCubin *cubin;
} ImpastoKernel;

static inline int64_t impasto_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* The cubin for the current context's device: its own, or for 8.x the nearest before it; else null. */
static inline CUresult impasto_select(const ImpastoCubin **chosen, const ImpastoCubin *cubins, int count)
{
    CUdevice device;
    int major = 0, minor = 0, index;
    CUresult result = cuCtxGetDevice(&device);
    if (result == CUDA_SUCCESS)
        result = cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    if (result == CUDA_SUCCESS)
        result = cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
    if (result != CUDA_SUCCESS)
        return result;
    *chosen = NULL;
    for (index = 0; index < count; index++) {
        int architecture = cubins[index].architecture;
        if (architecture == 10 * major + minor
            || (major == 8 && architecture / 10 == 8 && architecture < 10 * major + minor))
            *chosen = &cubins[index];
    }
    return *chosen ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

/* Load a kernel from the content of its cubin's file. */
static inline CUresult impasto_load_image(ImpastoKernel *kernel, const ImpastoCubin *cubin, const void *image)
{
    CUresult result = cuModuleLoadData(&kernel->module, image);
    if (result != CUDA_SUCCESS)
        return result;
    kernel->cubin = cubin;
    result = cuModuleGetFunction(&kernel->function, kernel->module, cubin->symbol);
    if (result == CUDA_SUCCESS && cubin->shared > 48 * 1024)
        result = cuFuncSetAttribute(kernel->function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                    (int)cubin->shared);
    if (result != CUDA_SUCCESS)
        cuModuleUnload(kernel->module);
    return result;
}

static inline CUresult impasto_load(ImpastoKernel *kernel, const char *folder, const ImpastoCubin *cubins, int count)
{
    const ImpastoCubin *cubin;
    char path[4096];
    FILE *file;
    long size = -1;
    void *image = NULL;
    CUresult result = impasto_select(&cubin, cubins, count);
    if (result != CUDA_SUCCESS)
        return result;
    if (snprintf(path, sizeof path, "%%s/%%s", folder, cubin->file) >= (int)sizeof path)
        return CUDA_ERROR_FILE_NOT_FOUND;
    file = fopen(path, "rb");
    if (!file)
        return CUDA_ERROR_FILE_NOT_FOUND;
    if (fseek(file, 0, SEEK_END) == 0)
        size = ftell(file);
    rewind(file);
    if (size > 0)
        image = malloc((size_t)size);
    if (image && fread(image, 1, (size_t)size, file) == (size_t)size)
        result = impasto_load_image(kernel, cubin, image);
    else
        result = CUDA_ERROR_INVALID_IMAGE;
    free(image);
    fclose(file);
    return result;
}

static inline CUresult impasto_unload(ImpastoKernel *kernel)
{
    return cuModuleUnload(kernel->module);
}

static inline CUresult impasto_launch(const ImpastoKernel *kernel, CUstream stream, int64_t x, int64_t y, int64_t z,
                                      void **arguments)
{
    if (x == 0 || y == 0 || z == 0)
        return CUDA_SUCCESS;
    if (x < 0 || x > INT32_MAX || y < 0 || y > 65535 || z < 0 || z > 65535)
        return CUDA_ERROR_INVALID_VALUE;
    return cuLaunchKernel(kernel->function, (unsigned)x, (unsigned)y, (unsigned)z, 32 * kernel->cubin->num_warps, 1, 1,
                          kernel->cubin->shared, stream, arguments, NULL);
}
"""

KERNEL = """
/* {kernel}: {use}.
{meanings} */
static const ImpastoCubin impasto_cubins_{name}[] = {{
{cubins}
}};

static inline CUresult impasto_load_{name}(ImpastoKernel *kernel, const char *folder)
{{
    return impasto_load(kernel, folder, impasto_cubins_{name}, {count});
}}

static inline CUresult impasto_launch_{name}(
    const ImpastoKernel *kernel, CUstream stream,
    {parameters})
{{
    CUdeviceptr global_scratch = 0, profile_scratch = 0;
{computed}    void *arguments[] = {{{addresses}, &global_scratch, &profile_scratch}};
    if ({refused})
        return CUDA_ERROR_INVALID_VALUE;
    return impasto_launch(kernel, stream, {grid}, arguments);
}}
"""


def header(groups: Sequence[Sequence[Cubin]], version: str) -> str:
    """The whole header for kernels, each compiled for one or more architectures; `version` is Triton's."""
    return COMMON % version + "".join(map(_kernel, groups)) + "\n#endif\n"


def _kernel(group: Sequence[Cubin]) -> str:
    spec, arguments = group[0].spec, group[0].arguments
    grid = [*spec.grid, "1", "1"][:3]
    sizes = [name for name in _names(grid) if name not in spec.types]
    cubins = sorted(group, key=lambda cubin: cubin.architecture)
    given = [argument for argument in arguments if argument.value is None]
    return KERNEL.format(
        kernel=spec.kernel,
        use=spec.use,
        name=spec.name,
        meanings="".join(map(_meaning, given)),
        cubins=",\n".join(
            f'    {{{one.architecture}, {one.num_warps}, {one.shared}, "{one.symbol}", "{one.file}"}}' for one in cubins
        ),
        count=len(cubins),
        parameters=", ".join([f"int64_t {name}" for name in sizes] + [f"{_c_type(a)} {a.name}" for a in given]),
        computed="".join(map(_computed, (argument for argument in arguments if argument.value is not None))),
        addresses=", ".join(f"&{argument.name}" for argument in arguments),
        refused=" || ".join(_refused(arguments)),
        grid=_expression(", ".join(grid)),
    )


def _names(grid: Sequence[str]) -> list[str]:
    """What the expressions name, in order, each once."""
    return list(dict.fromkeys(name for name in re.findall(NAME, " ".join(grid)) if name != "ceil_div"))


def _expression(text: str) -> str:
    """A grid's expression in C, computed in 64 bits."""
    return re.sub(NAME, lambda found: "impasto_ceil_div" if found[0] == "ceil_div" else f"(int64_t){found[0]}", text)


def _computed(argument: Argument) -> str:
    c_type = _c_type(argument)
    return f"    {c_type} {argument.name} = ({c_type})({_expression(argument.value or '')});\n"


def _refused(arguments: Sequence[Argument]) -> Iterator[str]:
    """Conditions under which a launch is refused."""
    yield f"({' | '.join(f'(CUdeviceptr){one.name}' for one in arguments if one.multiple_of == 16)}) % 16 != 0"
    for argument in arguments:
        if argument.multiple_of > 16:
            yield f"{argument.name} % {argument.multiple_of} != 0"
        if argument.most is not None:
            yield f"{argument.name} > {argument.most}"


def _c_type(argument: Argument) -> str:
    return "CUdeviceptr" if argument.type.startswith("*") else C_TYPES[argument.type]


def _meaning(argument: Argument) -> str:
    """What the header says of an argument that the caller gives."""
    notes = [argument.meaning] if argument.meaning else []
    if argument.multiple_of > 1 and not argument.type.startswith("*"):
        notes.append(f"a multiple of {argument.multiple_of}")
    if argument.most is not None:
        notes.append(f"at most {argument.most}")
    return f" *     {argument.name}: {', '.join([argument.type, *notes])}\n"
