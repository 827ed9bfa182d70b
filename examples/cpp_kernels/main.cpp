// A picture in a C++ program, by a kernel that `impasto kernels pack` compiled: floats [3, H, W] in [-1, 1], as a
// generator leaves them on the GPU, become bytes [H, W, 3], written as a PPM file. No Python and no CUDA runtime.
//
//     to_image FOLDER_OF_KERNELS PICTURE.ppm

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "impasto_kernels.h"

namespace {

constexpr int32_t kWidth = 320, kHeight = 200, kPixels = kWidth * kHeight, kChannels = 3;

void check(CUresult result, const char *what)
{
    if (result == CUDA_SUCCESS)
        return;
    const char *name = nullptr;
    cuGetErrorName(result, &name);
    throw std::runtime_error(std::string(what) + ": " + (name ? name : "unknown error"));
}

// The first GPU's primary context, current in this thread.
class Context {
public:
    Context()
    {
        check(cuInit(0), "cuInit");
        check(cuDeviceGet(&device_, 0), "cuDeviceGet");
        CUcontext context;
        check(cuDevicePrimaryCtxRetain(&context, device_), "cuDevicePrimaryCtxRetain");
        check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    }
    ~Context() { cuDevicePrimaryCtxRelease(device_); }
    Context(const Context &) = delete;
    Context &operator=(const Context &) = delete;

private:
    CUdevice device_ = 0;
};

// Memory on the GPU.
class Buffer {
public:
    explicit Buffer(size_t bytes) { check(cuMemAlloc(&address, bytes), "cuMemAlloc"); }
    ~Buffer() { cuMemFree(address); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    CUdeviceptr address = 0;
};

// A kernel, loaded as long as this lives.
class ToImage {
public:
    explicit ToImage(const char *folder)
    {
        check(impasto_load_to_image_fp32_u8_c3(&kernel_, folder), "impasto_load_to_image_fp32_u8_c3");
    }
    ~ToImage() { impasto_unload(&kernel_); }
    ToImage(const ToImage &) = delete;
    ToImage &operator=(const ToImage &) = delete;

    // Bytes of one picture; `flags` is one int32, zero, and becomes 1 if there is a NaN.
    void operator()(CUstream stream, const Buffer &floats, const Buffer &bytes, const Buffer &flags) const
    {
        // byte = round(clamp(127.5·x + 128, 0, 255)) towards zero, as impasto/kernels/to_image.py says.
        check(impasto_launch_to_image_fp32_u8_c3(&kernel_, stream, 1, floats.address, bytes.address, flags.address,
                                                 kPixels, 127.5f, 128.0f, 0.0f, 255.0f),
              "impasto_launch_to_image_fp32_u8_c3");
    }

private:
    ImpastoKernel kernel_{};
};

// Planes of red, green and blue: a gradient that goes a little beyond [-1, 1].
std::vector<float> gradient()
{
    std::vector<float> planes(kChannels * kPixels);
    for (int32_t pixel = 0; pixel < kPixels; pixel++) {
        const float x = 2.2f * float(pixel % kWidth) / kWidth - 1.1f, y = 2.2f * float(pixel / kWidth) / kHeight - 1.1f;
        planes[pixel] = x;
        planes[kPixels + pixel] = y;
        planes[2 * kPixels + pixel] = -x * y;
    }
    return planes;
}

// How many bytes differ from those computed here by more than the last rounding explains.
int differences(const std::vector<float> &planes, const std::vector<uint8_t> &bytes)
{
    int count = 0;
    for (int32_t index = 0; index < kChannels * kPixels; index++) {
        const float value = planes[index % kChannels * kPixels + index / kChannels];
        const int expected = int(std::clamp(127.5f * value + 128.0f, 0.0f, 255.0f));
        count += std::abs(expected - int(bytes[index])) > 1;
    }
    return count;
}

void write_ppm(const char *path, const std::vector<uint8_t> &bytes)
{
    std::FILE *file = std::fopen(path, "wb");
    if (!file)
        throw std::runtime_error(std::string(path) + " cannot be written");
    std::fprintf(file, "P6 %d %d 255\n", kWidth, kHeight);
    const size_t written = std::fwrite(bytes.data(), 1, bytes.size(), file);
    if (std::fclose(file) != 0 || written != bytes.size())
        throw std::runtime_error(std::string(path) + " cannot be written");
}

void run(const char *folder, const char *picture)
{
    const Context context;
    const ToImage to_image(folder);
    const std::vector<float> planes = gradient();
    std::vector<uint8_t> bytes(planes.size());
    const Buffer on_gpu(planes.size() * sizeof(float)), pixels(bytes.size()), flags(sizeof(int32_t));
    check(cuMemcpyHtoD(on_gpu.address, planes.data(), planes.size() * sizeof(float)), "cuMemcpyHtoD");
    check(cuMemsetD32(flags.address, 0, 1), "cuMemsetD32");
    to_image(nullptr, on_gpu, pixels, flags);
    check(cuMemcpyDtoH(bytes.data(), pixels.address, bytes.size()), "cuMemcpyDtoH");
    if (const int wrong = differences(planes, bytes))
        throw std::runtime_error(std::to_string(wrong) + " bytes are not what they should be");
    write_ppm(picture, bytes);
    std::printf("%s: %d×%d\n", picture, kWidth, kHeight);
}

}  // namespace

int main(int argc, char **argv)
{
    if (argc != 3) {
        std::fprintf(stderr, "usage: %s FOLDER_OF_KERNELS PICTURE.ppm\n", argv[0]);
        return 2;
    }
    try {
        run(argv[1], argv[2]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
        return 1;
    }
}
