// Only the instructions and memory spaces that plain C++ does not have. The tests replace this file by an emulation of
// exactly these functions and run the kernels on a CPU.
#pragma once

struct half_t {
    unsigned short bits;
};

struct bfloat_t {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }

__device__ __forceinline__ float to_float(half_t value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}

__device__ __forceinline__ float to_float(bfloat_t value) { return __uint_as_float(unsigned(value.bits) << 16); }

template <typename T>
__device__ T from_float(float value);

template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}

template <>
__device__ __forceinline__ half_t from_float<half_t>(float value) {
    half_t result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}

template <>
__device__ __forceinline__ bfloat_t from_float<bfloat_t>(float value) {
    bfloat_t result;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    const unsigned bits = __float_as_uint(value);
    result.bits = value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
#endif
    return result;
}

#if __CUDA_ARCH__ >= 800

// Round to the 10 bits of mantissa that the tensor cores read; ties go away from zero.
__device__ __forceinline__ float round_to_tf32(float value) {
    unsigned result;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
    return __uint_as_float(result);
}

// d += A B for one warp. A has 16 rows and 8 words, B 8 words and 8 columns; a word is one tf32 or two half values that
// are neighbours along the inner dimension. With group = lane / 4 and member = lane % 4:
//   a: (row group, word member), (group + 8, member), (group, member + 4), (group + 8, member + 4)
//   b: (word member, column group), (member + 4, group)
//   d: (row group, columns 2 member and 2 member + 1), then the same of row group + 8
// PTX ISA, "Matrix Fragments for mma.m16n8k8" (.tf32) and "... mma.m16n8k16" (.f16 and .bf16).
__device__ __forceinline__ void mma(float, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma(half_t, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma(bfloat_t, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

// Starts the copy of one word from global to shared memory, or of a zero in its place. The thread finds the word there after
// wait_for_copies(), other threads after a barrier that follows. Before sm_80 the copy is finished at once.
__device__ __forceinline__ void start_copy(unsigned *to, const float *from, bool inside) {
#if __CUDA_ARCH__ >= 800
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(inside ? 4 : 0));
#else
    *to = inside ? __float_as_uint(*from) : 0u;
#endif
}

__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Allocates the block's dynamic shared memory array by array. Every thread takes the same arrays in the same order.
class SharedMemory {
  public:
    __device__ __forceinline__ SharedMemory() {
        extern __shared__ __align__(16) char dynamic_shared_memory[];
        next_ = dynamic_shared_memory;
    }

    // An uninitialised array of 4-byte elements. Arrays start at multiples of 16 bytes.
    template <typename T>
    __device__ __forceinline__ T *take(int count) {
        static_assert(sizeof(T) == 4, "shared arrays are made of 4-byte elements");
        T *array = reinterpret_cast<T *>(next_);
        next_ += (count * 4 + 15) / 16 * 16;
        return array;
    }

  private:
    char *next_;
};
