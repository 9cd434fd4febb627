// Matrix products by one warp: from operands in global memory by way of shared memory to sums in registers.
#pragma once

#include <instructions.cuh>

constexpr unsigned WHOLE_WARP = 0xffffffffu;

__device__ __forceinline__ float negative_infinity() { return __uint_as_float(0xff800000u); }

__device__ constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// Shared memory holds values as 32-bit words: one float, or two neighbours along the inner dimension of the product.
template <typename T>
struct Word {
    static constexpr int VALUES = 2;

    __device__ static __forceinline__ unsigned pack(const T (&values)[2]) {
        return unsigned(values[0].bits) | unsigned(values[1].bits) << 16;
    }

    __device__ static __forceinline__ float unpack(unsigned word, int index) {
        T value;
        value.bits = static_cast<unsigned short>(word >> 16 * index);
        return to_float(value);
    }

    // The word of two values that are `step` apart in global memory, with zeros after the first `count`.
    __device__ static __forceinline__ void load(unsigned *to, const T *from, long long step, int count) {
        const T zero = from_float<T>(0);
        const T values[2] = {count > 0 ? from[0] : zero, count > 1 ? from[step] : zero};
        *to = pack(values);
    }
};

template <>
struct Word<float> {
    static constexpr int VALUES = 1;

    __device__ static __forceinline__ unsigned pack(const float (&values)[1]) { return __float_as_uint(values[0]); }

    __device__ static __forceinline__ float unpack(unsigned word, int) { return __uint_as_float(word); }

    // Only started: see start_copy.
    __device__ static __forceinline__ void load(unsigned *to, const float *from, long long, int count) {
        start_copy(to, from, count > 0);
    }
};

// Before sm_80, where a copy is finished at once, a second buffer would only take shared memory.
#if __CUDA_ARCH__ >= 800
constexpr int BUFFERS = 2;
#else
constexpr int BUFFERS = 1;
#endif

// Calls use(chunk, buffer) for every chunk, all threads of the block together, after load(chunk, buffer) has filled the
// buffer. With two buffers, the next chunk is on its way from global memory while one is used.
template <int COUNT = BUFFERS, typename Load, typename Use>
__device__ __forceinline__ void in_chunks(int chunks, const Load &load, const Use &use) {
    __syncthreads();  // what was in the buffers before is no longer needed
    if (COUNT == 2 && chunks > 0) load(0, 0);
    for (int chunk = 0; chunk < chunks; ++chunk) {
        if (COUNT == 1) {
            if (chunk > 0) __syncthreads();
            load(chunk, 0);
        }
        wait_for_copies();
        __syncthreads();  // the chunk is complete, and the other buffer is no longer used
        if (COUNT == 2 && chunk + 1 < chunks) load(chunk + 1, (chunk + 1) % 2);
        use(chunk, chunk % COUNT);
    }
}

// One factor of a product: the word `inner` of row (or column) `outer` is words[outer * outer_step + inner * inner_step].
// Reads have no bank conflicts if the larger step modulo 32 is 4, 12, 20 or 28 (inner step 1) or 8 (outer step 1).
struct Operand {
    const unsigned *words;
    int outer_step;
    int inner_step;

    __device__ __forceinline__ unsigned at(int outer, int inner) const {
        return words[outer * outer_step + inner * inner_step];
    }
};

// The smallest step that is 8 modulo 32 and has `width` words or more.
__device__ constexpr int padded_step(int width) { return round_up(width + 24, 32) - 24; }

// (16 M_TILES) x (8 N_TILES) sums of products, distributed over the lanes of a warp as `mma` returns them. LONG is for sums
// of many products: tensor cores round their sums toward zero, so plain additions then sum what they have multiplied.
template <typename T, int M_TILES, int N_TILES, bool LONG = false>
class WarpTile {
  public:
    float sums[M_TILES][N_TILES][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[m][n][i] = 0;
            }
        }
    }

    // Position of sums[m][n][i] of this lane.
    __device__ static __forceinline__ int row(int m, int i) { return 16 * m + lane() / 4 + i / 2 * 8; }
    __device__ static __forceinline__ int column(int n, int i) { return 8 * n + lane() % 4 * 2 + i % 2; }
    __device__ static __forceinline__ int lane() { return threadIdx.x % 32; }

    // sums += rows x columns over `words` inner words, a multiple of 8.
    __device__ __forceinline__ void multiply(Operand rows, Operand columns, int words) {
#if __CUDA_ARCH__ >= 800
        for (int word = 0; word < words; word += 8) multiply_8_words(rows, columns, word, T());
#else
        for (int word = 0; word < words; ++word) multiply_word(rows, columns, word);
#endif
    }

  private:
#if __CUDA_ARCH__ >= 800
    template <typename Half>
    __device__ __forceinline__ void multiply_8_words(Operand rows, Operand columns, int word, Half type) {
        unsigned a[M_TILES][4], b[2];
        read_rows(a, rows, word);
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
            read_columns(b, columns, word, n);
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) mma(type, sums[m][n], a[m], b);
        }
    }

    // Every float is split into a high and a low part of 10 bits each. Three products, all but low times low, replace one
    // product of 23-bit mantissas, with an error of about 2^-22.
    __device__ __forceinline__ void multiply_8_words(Operand rows, Operand columns, int word, float type) {
        unsigned a[M_TILES][4], a_low[M_TILES][4], b[2], b_low[2];
        read_rows(a, rows, word);
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) split(a[m], a_low[m]);
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
            read_columns(b, columns, word, n);
            split(b, b_low);
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) {
                float products[4] = {0, 0, 0, 0};
                float(&target)[4] = LONG ? products : sums[m][n];
                mma(type, target, a_low[m], b);
                mma(type, target, a[m], b_low);
                mma(type, target, a[m], b);
                if (!LONG) continue;
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[m][n][i] += products[i];
            }
        }
    }

    __device__ static __forceinline__ void read_rows(unsigned (&a)[M_TILES][4], Operand rows, int word) {
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[m][i] = rows.at(16 * m + lane() / 4 + i % 2 * 8, word + lane() % 4 + i / 2 * 4);
        }
    }

    __device__ static __forceinline__ void read_columns(unsigned (&b)[2], Operand columns, int word, int n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) b[i] = columns.at(8 * n + lane() / 4, word + lane() % 4 + i * 4);
    }

    template <int COUNT>
    __device__ static __forceinline__ void split(unsigned (&high)[COUNT], unsigned (&low)[COUNT]) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const float value = __uint_as_float(high[i]);
            const float rounded = round_to_tf32(value);
            high[i] = __float_as_uint(rounded);
            low[i] = __float_as_uint(round_to_tf32(value - rounded));
        }
    }
#else
    __device__ __forceinline__ void multiply_word(Operand rows, Operand columns, int word) {
        unsigned a[M_TILES][2];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int i = 0; i < 2; ++i) a[m][i] = rows.at(row(m, 2 * i), word);
        }
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const unsigned b = columns.at(column(n, j), word);
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
#pragma unroll
                        for (int value = 0; value < Word<T>::VALUES; ++value) {
                            sums[m][n][2 * i + j] +=
                                Word<T>::unpack(a[m][i], value) * Word<T>::unpack(b, value);
                        }
                    }
                }
            }
        }
    }
#endif
};

// Torch's order of scores: NaN is above everything.
__device__ __forceinline__ bool above(float score, float other) {
    return score > other || (score != score && other == other);
}

// The highest score of one row of a WarpTile and its column, after share() equal in the four lanes of the row. A tie
// gives the lowest column.
struct Best {
    float score;
    int column;

    __device__ __forceinline__ void offer(float other_score, int other_column) {
        if (above(other_score, score) || (!above(score, other_score) && other_column < column)) {
            score = other_score;
            column = other_column;
        }
    }

    __device__ __forceinline__ void share() {
#pragma unroll
        for (int distance = 1; distance < 4; distance *= 2) {
            const float other_score = __shfl_xor_sync(WHOLE_WARP, score, distance);
            const int other_column = __shfl_xor_sync(WHOLE_WARP, column, distance);
            offer(other_score, other_column);
        }
    }
};

// Sum over the four lanes that share a row of a WarpTile.
__device__ __forceinline__ float sum_over_row(float value) {
    value += __shfl_xor_sync(WHOLE_WARP, value, 1);
    return value + __shfl_xor_sync(WHOLE_WARP, value, 2);
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(WHOLE_WARP, value, distance));
    }
    return value;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(WHOLE_WARP, value, distance);
    return value;
}
