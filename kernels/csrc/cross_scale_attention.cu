// Linear attention at two scales in three launches, each for both scales: compute contexts of parts of the positions,
// merge and compare them, apply the merged contexts. Only the outputs are stored at the size of the input.
#include <warp_tile.cuh>

// One scale's tensors. Query and value (B, N, D), key (B, D, N).
template <typename T>
struct Scale {
    const T *query;
    const T *key;
    const T *value;
    T *out;      // (B, N, D)
    T *context;  // (B, D, D)
    int positions;
    int parts;  // parts of the positions for attention_context, tiles of positions for attention_apply
};

// Results of attention_context for attention_merge, fine parts first. The weights of a part are exp(key - maximum).
struct Partial {
    float *context;  // (B, parts, D, D), weighted sums of values
    float *maximum;  // (B, parts, D)
    float *total;    // (B, parts, D), sums of weights
};

constexpr int CONTEXT_WARPS = 8;
constexpr int CONTEXT_ROWS = 16 * CONTEXT_WARPS;  // key channels of one block
constexpr int CONTEXT_WORDS = 32;                 // words of positions in shared memory at a time: one for each lane
constexpr int WEIGHT_STEP = CONTEXT_WORDS + 4;
// The reference of the weights may be smaller than the running maximum by up to this, so that sums are rarely rescaled.
// exp(5) is far below the largest half value.
constexpr float SLACK = 5;
// Two buffers of wider tiles would exceed the 48 KB of shared memory that a plugin of TensorRT may have.
__device__ constexpr int buffers(int n_tiles) { return n_tiles <= 13 ? BUFFERS : 1; }

// One block per part (x), tile of the context (y) and image (z). A tile has 8 N_TILES - 1 columns of the context; a last
// column of ones in the values makes the product sum the weights too.
template <typename T, int N_TILES>
__device__ void attention_context(Scale<T> fine, Scale<T> coarse, Partial partial, int width) {
    constexpr int VALUES = Word<T>::VALUES;
    constexpr int COLUMNS = 8 * N_TILES;
    constexpr int VALUE_STEP = padded_step(COLUMNS);
    constexpr int COUNT = buffers(N_TILES);
    SharedMemory shared;
    unsigned *weights = shared.take<unsigned>(CONTEXT_ROWS * WEIGHT_STEP);             // [key channel][word]
    unsigned *values = shared.take<unsigned>(COUNT * CONTEXT_WORDS * VALUE_STEP);  // [buffer][word][value channel]
    float *reference = shared.take<float>(CONTEXT_ROWS);
    float *rescale = shared.take<float>(CONTEXT_ROWS);

    const int parts = fine.parts + coarse.parts;
    const bool is_fine = blockIdx.x < fine.parts;
    const Scale<T> scale = is_fine ? fine : coarse;
    const int part = is_fine ? blockIdx.x : blockIdx.x - fine.parts;
    const int column_blocks = (width + COLUMNS - 2) / (COLUMNS - 1);
    const int first_row = blockIdx.y / column_blocks * CONTEXT_ROWS;
    const int first_column = blockIdx.y % column_blocks * (COLUMNS - 1);
    const int image = blockIdx.z;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int stretch = round_up((scale.positions + scale.parts - 1) / scale.parts, CONTEXT_WORDS * VALUES);
    const int begin = part * stretch, end = min(begin + stretch, scale.positions);
    const T *key = scale.key + static_cast<long long>(image) * width * scale.positions;
    const T *value = scale.value + static_cast<long long>(image) * width * scale.positions;

    // The ones stay in both buffers; beyond the last position they add nothing, because the weights are zero there.
    T ones[VALUES];
#pragma unroll
    for (int v = 0; v < VALUES; ++v) ones[v] = from_float<T>(1);
    if (threadIdx.x < COUNT * CONTEXT_WORDS) values[threadIdx.x * VALUE_STEP + COLUMNS - 1] = Word<T>::pack(ones);

    // A warp computes the weights of the rows that it multiplies, so the weights need no barrier of the block. Their keys
    // are read one chunk ahead: one word of each of the warp's rows.
    unsigned keys[16];
    const int rows = width - first_row - 16 * warp;  // of this warp
    const T *warp_keys = key + static_cast<long long>(first_row + 16 * warp) * scale.positions;
    const auto read_keys = [&](int first) {
        const int position = first + lane * VALUES;
        const T *from = warp_keys + position;
#pragma unroll
        for (int r = 0; r < 16; ++r) {
            T pair[VALUES];
#pragma unroll
            for (int v = 0; v < VALUES; ++v) {
                pair[v] = position + v < end && r < rows ? from[v] : from_float<T>(negative_infinity());
            }
            keys[r] = Word<T>::pack(pair);
            from += scale.positions;
        }
    };
    const auto load = [&](int chunk, int buffer) {
#pragma unroll 1  // fewer registers; a copy that is only started needs none
        for (int i = 0; i < CONTEXT_WORDS / CONTEXT_WARPS; ++i) {
            const int word = warp + CONTEXT_WARPS * i, position = begin + (chunk * CONTEXT_WORDS + word) * VALUES;
            const int count = end - position;
            unsigned *to = values + (buffer * CONTEXT_WORDS + word) * VALUE_STEP;
            const T *from = value + static_cast<long long>(position) * width + first_column;
#pragma unroll
            for (int first = 0; first < COLUMNS - 1; first += 32) {
                const int column = first + lane;
                if (column >= COLUMNS - 1) continue;
                Word<T>::load(to + column, from + column, width, first_column + column < width ? count : 0);
            }
        }
    };
    using Tile = WarpTile<T, 1, N_TILES, true>;
    Tile sums;
    sums.clear();
    if (lane < 16) reference[16 * warp + lane] = negative_infinity();
    read_keys(begin);
    const auto use = [&](int chunk, int buffer) {
        bool rescaled = false;
#pragma unroll
        for (int r = 0; r < 16; ++r) {
            const int row = 16 * warp + r;
            float exponents[VALUES], highest = negative_infinity();
#pragma unroll
            for (int v = 0; v < VALUES; ++v) {
                exponents[v] = Word<T>::unpack(keys[r], v);
                highest = fmaxf(highest, exponents[v]);
            }
            float base = reference[row], factor = 1;
            if (__any_sync(WHOLE_WARP, highest > base + SLACK)) {
                const float maximum = warp_max(highest);
                factor = expf(base - maximum);
                base = maximum;
                rescaled = true;
            }
            T pair[VALUES];
#pragma unroll
            for (int v = 0; v < VALUES; ++v) {
                // exp(-inf - -inf) would be NaN where all keys so far are minus infinity.
                pair[v] = from_float<T>(exponents[v] == negative_infinity() ? 0.0f : expf(exponents[v] - base));
            }
            weights[row * WEIGHT_STEP + lane] = Word<T>::pack(pair);
            __syncwarp();
            if (lane == 0) {
                reference[row] = base;
                rescale[row] = factor;
            }
        }
        read_keys(begin + (chunk + 1) * CONTEXT_WORDS * VALUES);
        __syncwarp();
        if (rescaled) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float factor = rescale[16 * warp + Tile::row(0, i)];
#pragma unroll
                for (int n = 0; n < N_TILES; ++n) sums.sums[0][n][i] *= factor;
            }
        }
        sums.multiply({weights + 16 * warp * WEIGHT_STEP, WEIGHT_STEP, 1},
                      {values + buffer * CONTEXT_WORDS * VALUE_STEP, 1, VALUE_STEP}, CONTEXT_WORDS);
    };
    in_chunks<COUNT>((end - begin + CONTEXT_WORDS * VALUES - 1) / (CONTEXT_WORDS * VALUES), load, use);
    const long long at = static_cast<long long>(image) * parts + blockIdx.x;
    if (blockIdx.y % column_blocks == 0 && lane < 16 && first_row + 16 * warp + lane < width) {
        partial.maximum[at * width + first_row + 16 * warp + lane] = reference[16 * warp + lane];
    }
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int channel = first_row + 16 * warp + Tile::row(0, i);
            const int column = Tile::column(n, i);
            if (channel >= width) continue;
            if (column == COLUMNS - 1) {
                if (blockIdx.y % column_blocks == 0) partial.total[at * width + channel] = sums.sums[0][n][i];
            } else if (first_column + column < width) {
                partial.context[(at * width + channel) * width + first_column + column] = sums.sums[0][n][i];
            }
        }
    }
}

constexpr int MERGE_WARPS = 8;
constexpr int WIDEST = 256;

// The sum of one value per thread, the same in all threads and in every run.
__device__ float block_sum(float value, float *scratch) {
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < MERGE_WARPS; ++warp) sum += scratch[warp];
    return sum;
}

__device__ float block_max(float value, float *scratch) {
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    float maximum = scratch[0];
#pragma unroll
    for (int warp = 1; warp < MERGE_WARPS; ++warp) maximum = fmaxf(maximum, scratch[warp]);
    return maximum;
}

// One block per context row (x) and image (y): both scales' rows, and their cosine (B, D).
template <typename T>
__device__ void attention_merge(Partial partial, int width, int fine_parts, int coarse_parts,
                                T *__restrict__ fine_context, T *__restrict__ coarse_context,
                                float *__restrict__ cosine) {
    const int parts = fine_parts + coarse_parts;
    SharedMemory shared;
    float *factors = shared.take<float>(parts);  // weight of each part in the row of its scale
    float *scratch = shared.take<float>(MERGE_WARPS);
    float *warp_sums = shared.take<float>(2 * MERGE_WARPS * width);  // [warp][scale][column]
    const int row = blockIdx.x, image = blockIdx.y;
    const long long first = static_cast<long long>(image) * parts;

    for (int scale = 0; scale < 2; ++scale) {
        const int begin = scale == 0 ? 0 : fine_parts, end = scale == 0 ? fine_parts : parts;
        float maximum = negative_infinity();
        for (int part = begin + threadIdx.x; part < end; part += 32 * MERGE_WARPS) {
            maximum = fmaxf(maximum, partial.maximum[(first + part) * width + row]);
        }
        maximum = block_max(maximum, scratch);
        float total = 0;
        for (int part = begin + threadIdx.x; part < end; part += 32 * MERGE_WARPS) {
            const float factor = expf(partial.maximum[(first + part) * width + row] - maximum);
            factors[part] = factor;
            total += factor * partial.total[(first + part) * width + row];
        }
        total = block_sum(total, scratch);
        for (int part = begin + threadIdx.x; part < end; part += 32 * MERGE_WARPS) factors[part] /= total;
    }
    __syncthreads();
    // Each warp sums every MERGE_WARPS-th part, and keeps many loads in flight.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int scale = 0; scale < 2; ++scale) {
        const int begin = scale == 0 ? 0 : fine_parts, end = scale == 0 ? fine_parts : parts;
        float sums[WIDEST / 32] = {};
#pragma unroll 2
        for (int part = begin + warp; part < end; part += MERGE_WARPS) {
            const float factor = factors[part];
            const float *context = partial.context + ((first + part) * width + row) * width;
#pragma unroll
            for (int j = 0; j < WIDEST / 32; ++j) {
                if (lane + 32 * j < width) sums[j] += factor * context[lane + 32 * j];
            }
        }
#pragma unroll
        for (int j = 0; j < WIDEST / 32; ++j) {
            if (lane + 32 * j < width) warp_sums[(2 * warp + scale) * width + lane + 32 * j] = sums[j];
        }
    }
    __syncthreads();
    float dot = 0, fine_square = 0, coarse_square = 0;
    for (int column = threadIdx.x; column < width; column += 32 * MERGE_WARPS) {
        float sums[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < 2 * MERGE_WARPS; ++i) sums[i % 2] += warp_sums[i * width + column];
        const long long at = (static_cast<long long>(image) * width + row) * width + column;
        fine_context[at] = from_float<T>(sums[0]);
        coarse_context[at] = from_float<T>(sums[1]);
        dot += sums[0] * sums[1];
        fine_square += sums[0] * sums[0];
        coarse_square += sums[1] * sums[1];
    }
    dot = block_sum(dot, scratch);
    fine_square = block_sum(fine_square, scratch);
    coarse_square = block_sum(coarse_square, scratch);
    // Torch's CosineEmbeddingLoss has the same 1e-12.
    if (threadIdx.x == 0) {
        cosine[image * width + row] = dot / sqrtf((fine_square + 1e-12f) * (coarse_square + 1e-12f));
    }
}

constexpr int APPLY_WORDS = 16;  // words of the context's rows in shared memory at a time

// One block per tile of 16 WARPS positions (x), columns of the context (y) and image (z).
template <typename T, int N_TILES, int WARPS>
__device__ void attention_apply(Scale<T> fine, Scale<T> coarse, const float *__restrict__ cosine,
                                int width, T *__restrict__ consistency) {
    constexpr int VALUES = Word<T>::VALUES;
    constexpr int COLUMNS = 8 * N_TILES;
    constexpr int CONTEXT_STEP = padded_step(COLUMNS);
    const int words = round_up((width + VALUES - 1) / VALUES, APPLY_WORDS);
    const int weight_step = words + 4;
    SharedMemory shared;
    unsigned *weights = shared.take<unsigned>(16 * WARPS * weight_step);           // [position][word]
    unsigned *context_words = shared.take<unsigned>(buffers(N_TILES) * APPLY_WORDS * CONTEXT_STEP);  // [buffer][word][column]

    const bool is_fine = blockIdx.x < fine.parts;
    const Scale<T> scale = is_fine ? fine : coarse;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first = (is_fine ? blockIdx.x : blockIdx.x - fine.parts) * 16 * WARPS + 16 * warp;
    const int first_column = blockIdx.y * COLUMNS;
    const int image = blockIdx.z;
    const T *query = scale.query + static_cast<long long>(image) * scale.positions * width;
    const T *context = scale.context + static_cast<long long>(image) * width * width;
    T *out = scale.out + static_cast<long long>(image) * scale.positions * width;

    if (blockIdx.x == 0 && blockIdx.y == 0 && warp == 0) {
        float sum = 0;
        for (int row = lane; row < width; row += 32) sum += cosine[image * width + row];
        sum = warp_sum(sum);
        if (lane == 0) consistency[image] = from_float<T>(sum / width);
    }

    // Each warp computes the weights of the channels of its own 16 positions.
    constexpr int CHANNELS_PER_LANE = WIDEST / 32;
#pragma unroll 2
    for (int r = 0; r < 16; ++r) {
        const int position = first + r;
        float exponents[CHANNELS_PER_LANE], maximum = negative_infinity(), total = 0;
#pragma unroll
        for (int j = 0; j < CHANNELS_PER_LANE; ++j) {
            const int channel = (lane + j / VALUES * 32) * VALUES + j % VALUES;
            exponents[j] = channel < width && position < scale.positions
                               ? to_float(query[static_cast<long long>(position) * width + channel])
                               : negative_infinity();
            maximum = fmaxf(maximum, exponents[j]);
        }
        maximum = position < scale.positions ? warp_max(maximum) : 0;
#pragma unroll
        for (int j = 0; j < CHANNELS_PER_LANE; ++j) {
            const int channel = (lane + j / VALUES * 32) * VALUES + j % VALUES;
            exponents[j] = channel < width ? expf(exponents[j] - maximum) : 0;
            total += exponents[j];
        }
        total = position < scale.positions ? warp_sum(total) : 1;
#pragma unroll
        for (int j = 0; j < CHANNELS_PER_LANE; j += VALUES) {
            const int word = lane + j / VALUES * 32;
            T pair[VALUES];
#pragma unroll
            for (int v = 0; v < VALUES; ++v) pair[v] = from_float<T>(exponents[j + v] / total);
            if (word < words) weights[(16 * warp + r) * weight_step + word] = Word<T>::pack(pair);
        }
    }

    using Tile = WarpTile<T, 1, N_TILES, true>;
    Tile sums;
    sums.clear();
    const auto load = [&](int chunk, int buffer) {
        for (int i = threadIdx.x; i < APPLY_WORDS * COLUMNS; i += 32 * WARPS) {
            const int word = i / COLUMNS, column = first_column + i % COLUMNS;
            const int channel = (chunk * APPLY_WORDS + word) * VALUES;
            Word<T>::load(context_words + (buffer * APPLY_WORDS + word) * CONTEXT_STEP + i % COLUMNS,
                          context + channel * width + column, width, column < width ? width - channel : 0);
        }
    };
    const auto use = [&](int chunk, int buffer) {
        sums.multiply({weights + 16 * warp * weight_step + chunk * APPLY_WORDS, weight_step, 1},
                      {context_words + buffer * APPLY_WORDS * CONTEXT_STEP, 1, CONTEXT_STEP}, APPLY_WORDS);
    };
    in_chunks<buffers(N_TILES)>(words / APPLY_WORDS, load, use);
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int position = first + Tile::row(0, i), column = first_column + Tile::column(n, i);
            if (position < scale.positions && column < width) {
                out[static_cast<long long>(position) * width + column] = from_float<T>(sums.sums[0][n][i]);
            }
        }
    }
}

// Parameters in TensorRT's order for plugins: inputs, integers, outputs.
#define ATTENTION_CONTEXT(T, TYPE, N_TILES)                                                                           \
    extern "C" __global__ void __launch_bounds__(32 * CONTEXT_WARPS, 2) attention_context_##TYPE##_n##N_TILES(        \
        const T *fine_key, const T *fine_value, const T *coarse_key, const T *coarse_value, int width,                \
        int fine_positions, int coarse_positions, int fine_parts, int coarse_parts, float *context, float *maximum,   \
        float *total) {                                                                                               \
        attention_context<T, N_TILES>({nullptr, fine_key, fine_value, nullptr, nullptr, fine_positions, fine_parts},  \
                                      {nullptr, coarse_key, coarse_value, nullptr, nullptr, coarse_positions,         \
                                       coarse_parts},                                                                 \
                                      {context, maximum, total}, width);                                              \
    }
#define ATTENTION_MERGE(T, TYPE)                                                                                      \
    extern "C" __global__ void __launch_bounds__(32 * MERGE_WARPS) attention_merge_##TYPE(                            \
        float *context, float *maximum, float *total, int width, int fine_parts, int coarse_parts, T *fine_context,   \
        T *coarse_context, float *cosine) {                                                                           \
        attention_merge<T>({context, maximum, total}, width, fine_parts, coarse_parts, fine_context, coarse_context,  \
                           cosine);                                                                                   \
    }
#define ATTENTION_APPLY(T, TYPE, N_TILES, WARPS)                                                                      \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) attention_apply_##TYPE##_n##N_TILES(                     \
        const T *fine_query, const T *coarse_query, T *fine_context, T *coarse_context, const float *cosine,          \
        int width, int fine_positions, int coarse_positions, int fine_tiles, int coarse_tiles, T *fine_out,           \
        T *coarse_out, T *consistency) {                                                                              \
        attention_apply<T, N_TILES, WARPS>(                                                                           \
            {fine_query, nullptr, nullptr, fine_out, fine_context, fine_positions, fine_tiles},                       \
            {coarse_query, nullptr, nullptr, coarse_out, coarse_context, coarse_positions, coarse_tiles}, cosine,     \
            width, consistency);                                                                                      \
    }
#define ATTENTION(T, TYPE)                                                                                            \
    ATTENTION_CONTEXT(T, TYPE, 4)                                                                                     \
    ATTENTION_CONTEXT(T, TYPE, 13)                                                                                    \
    ATTENTION_CONTEXT(T, TYPE, 17)                                                                                    \
    ATTENTION_MERGE(T, TYPE)                                                                                          \
    ATTENTION_APPLY(T, TYPE, 4, 4)                                                                                    \
    ATTENTION_APPLY(T, TYPE, 13, 4)                                                                                   \
    ATTENTION_APPLY(T, TYPE, 16, 2)

ATTENTION(float, f32)
ATTENTION(half_t, f16)
ATTENTION(bfloat_t, bf16)
