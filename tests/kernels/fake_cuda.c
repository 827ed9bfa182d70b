/* A CUDA driver without a GPU: memory is the host's, a launch is printed, and to_image is computed here.
 * The environment's FAKE_ARCHITECTURE is what the device says it is, such as 90. */
#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char symbol[256];

static void to_image(void **arguments)
{
    const float *x = *(const float **)arguments[0];
    uint8_t *out = *(uint8_t **)arguments[1];
    const int32_t pixels = *(const int32_t *)arguments[3];
    const float scale = *(const float *)arguments[4], offset = *(const float *)arguments[5];
    const float low = *(const float *)arguments[6], high = *(const float *)arguments[7];
    for (int32_t index = 0; index < 3 * pixels; index++) {
        const float y = x[index % 3 * pixels + index / 3] * scale + offset;
        out[index] = (uint8_t)(y < low ? low : y > high ? high : y);
    }
    if (*(void **)arguments[8] || *(void **)arguments[9])
        printf("hidden pointers are not null\n");
}

CUresult cuInit(unsigned flags)
{
    (void)flags;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    (void)device;
    *context = NULL;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    (void)device;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    (void)context;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **name)
{
    (void)error;
    *name = "error";
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    const int architecture = atoi(getenv("FAKE_ARCHITECTURE"));
    (void)device;
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? architecture / 10 : architecture % 10;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes)
{
    *address = (CUdeviceptr)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr address)
{
    free((void *)(uintptr_t)address);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes)
{
    memcpy((void *)(uintptr_t)to, from, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes)
{
    memcpy(to, (void *)(uintptr_t)from, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemsetD32(CUdeviceptr to, unsigned value, size_t count)
{
    for (size_t index = 0; index < count; index++)
        ((uint32_t *)(uintptr_t)to)[index] = value;
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    *module = NULL;
    return memcmp(image, "\177ELF", 4) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
}

CUresult cuModuleUnload(CUmodule module)
{
    (void)module;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    (void)module;
    *function = NULL;
    snprintf(symbol, sizeof symbol, "%s", name);
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
    (void)function;
    printf("attribute %d = %d\n", attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, value);
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned rows,
                        unsigned planes, unsigned shared, CUstream stream, void **arguments, void **extra)
{
    (void)function, (void)stream, (void)extra;
    printf("%s grid %u %u %u block %u %u %u shared %u\n", symbol, x, y, z, threads, rows, planes, shared);
    if (strcmp(symbol, "_to_image_kernel") == 0)
        to_image(arguments);
    return CUDA_SUCCESS;
}
