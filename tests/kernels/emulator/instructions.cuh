// Takes the place of kernels/csrc/instructions.cuh: the same functions, and CUDA's own names, for a C++ compiler.
#pragma once

#include <emulator.h>

#include <cmath>
#include <cstring>

#define __global__ inline  // so that a kernel that no launch names is not compiled
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict

#define threadIdx (emulator::thread().index)
#define blockIdx (emulator::block().index)
#define blockDim (emulator::launch().block)
#define gridDim (emulator::launch().grid)

using std::max;
using std::min;

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline void __syncthreads() { emulator::block_barrier(0); }
inline int __syncthreads_count(bool predicate) { return emulator::block_barrier(predicate); }
inline void __syncwarp() { emulator::warp_barrier(); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
    static_assert(sizeof(T) == 4);
    emulator::check(mask == 0xffffffffu, "only shuffles of the whole warp are emulated");
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    bits = emulator::shuffle_xor(bits, distance);
    std::memcpy(&value, &bits, 4);
    return value;
}

inline bool __any_sync(unsigned mask, bool predicate) {
    emulator::check(mask == 0xffffffffu, "only votes of the whole warp are emulated");
    return emulator::any(predicate);
}

template <typename T>
T atomicAdd(T *address, T value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

struct half_t {
    unsigned short bits;
};

struct bfloat_t {
    unsigned short bits;
};

inline float to_float(float value) { return value; }

inline float to_float(half_t value) {
    const int exponent = value.bits >> 10 & 31, mantissa = value.bits & 1023;
    float magnitude;
    if (exponent == 31) {
        magnitude = mantissa ? NAN : INFINITY;
    } else {
        magnitude = exponent ? std::ldexp(float(1024 + mantissa), exponent - 25) : std::ldexp(float(mantissa), -24);
    }
    return value.bits >> 15 ? -magnitude : magnitude;
}

inline float to_float(bfloat_t value) { return __uint_as_float(unsigned(value.bits) << 16); }

template <typename T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
    return value;
}

template <>
inline half_t from_float<half_t>(float value) {
    const unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    const float magnitude = std::fabs(value);
    if (std::isnan(value)) return {0x7fff};
    if (magnitude >= 65520) return {static_cast<unsigned short>(sign | 0x7c00)};
    // In units of the last place at this magnitude; rint rounds to nearest, ties to even.
    const int exponent = magnitude < 0x1p-14f ? -14 : std::ilogb(magnitude);
    const int units = static_cast<int>(std::rint(std::ldexp(magnitude, 10 - exponent)));
    const int bits = magnitude < 0x1p-14f ? units : (exponent + 14) * 1024 + units;
    return {static_cast<unsigned short>(sign | bits)};
}

template <>
inline bfloat_t from_float<bfloat_t>(float value) {
    if (std::isnan(value)) return {0x7fff};
    const unsigned bits = __float_as_uint(value);
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float round_to_tf32(float value) {
    const unsigned bits = __float_as_uint(value);
    return std::isfinite(value) ? __uint_as_float((bits + 0x1000) & 0xffffe000u) : value;
}

inline double multiply_tf32(unsigned a, unsigned b) {
    // The tensor cores do not see the last 13 bits.
    return double(__uint_as_float(a & 0xffffe000u)) * double(__uint_as_float(b & 0xffffe000u));
}

template <typename T>
double multiply_pair(unsigned a, unsigned b) {
    const auto value = [](unsigned word, int index) {
        return double(to_float(T{static_cast<unsigned short>(word >> 16 * index)}));
    };
    return value(a, 0) * value(b, 0) + value(a, 1) * value(b, 1);
}

inline void mma(float, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulator::multiply_fragments(d, a, b, multiply_tf32);
}

inline void mma(half_t, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulator::multiply_fragments(d, a, b, multiply_pair<half_t>);
}

inline void mma(bfloat_t, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulator::multiply_fragments(d, a, b, multiply_pair<bfloat_t>);
}

// The word is read now, because nothing may change it meanwhile; what it replaces is lost now.
inline void start_copy(unsigned *to, const float *from, bool inside) {
    const unsigned word = inside ? __float_as_uint(*from) : 0u;
#if __CUDA_ARCH__ >= 800
    *to = 0xffffffffu;
    emulator::start_copy({to, word});
#else
    *to = word;
#endif
}

inline void wait_for_copies() {
    emulator::Copy copy;
    while (emulator::take_copy(copy)) *copy.to = copy.word;
}

// Every array is an allocation of its own, so that the address sanitiser sees its ends, filled with NaN before the block
// starts. The launch's size must be the sum of what is taken.
class SharedMemory {
  public:
    template <typename T>
    T *take(int count) {
        static_assert(sizeof(T) == 4, "shared arrays are made of 4-byte elements");
        return static_cast<T *>(emulator::shared_array(taken_++, 4 * count));
    }

  private:
    int taken_ = 0;
};
