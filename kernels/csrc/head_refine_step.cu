// The closed-form update of a cluster head: one launch gathers the samples, then each step has two launches. Scores,
// probabilities and residuals are in registers and shared memory only.
#include <warp_tile.cuh>

constexpr int CHANNELS = 32;  // channels of the gradient at a time

// Gradient of the cross-entropy of one tile of pixels against its own argmax, with the loss and the counts.
//
// samples (B, C, N); head (B, K, C); gradient (B, tiles, K, C), loss (B, tiles) and counts (B, tiles, K), all sums over
// the tile. Images that are not active are skipped. One block per tile (x) and image (y), a warp per 16 pixels and
// all K <= 8 N_TILES clusters.
template <int N_TILES, int WARPS, int WORDS>
__device__ void head_gradient(const float *__restrict__ samples, const float *__restrict__ head,
                              const bool *__restrict__ active, int channels, int pixels, int clusters,
                              float *__restrict__ gradient, float *__restrict__ loss, int *__restrict__ counts) {
    constexpr int PIXELS = 16 * WARPS, THREADS = 32 * WARPS;
    constexpr int PIXEL_STEP = PIXELS + 8;  // with pixels side by side, as rows of the scores
    constexpr int HEAD_STEP = WORDS + 4;
    constexpr int INNER_STEP = PIXELS + 4;  // with pixels side by side, as the inner dimension of the gradient
    const int tiles = gridDim.x, first_pixel = blockIdx.x * PIXELS, image = blockIdx.y;
    const int warp = threadIdx.x / 32;
    if (!active[image]) return;

    // The operands of the scores are no longer needed when those of the gradient are written: both share memory.
    const int rows = round_up(clusters, 32);
    SharedMemory shared;
    unsigned *memory = shared.take<unsigned>(
        max(BUFFERS * (WORDS * PIXEL_STEP + 8 * N_TILES * HEAD_STEP), (rows + BUFFERS * CHANNELS) * INNER_STEP));
    float *losses = shared.take<float>(PIXELS);
    int *histogram = shared.take<int>(clusters);
    unsigned *pixel_words = memory;                          // [buffer][channel][pixel]
    unsigned *head_words = memory + BUFFERS * WORDS * PIXEL_STEP;  // [buffer][cluster][channel]
    unsigned *residuals = memory;                            // [cluster][pixel]
    unsigned *channel_words = memory + rows * INNER_STEP;    // [buffer][channel][pixel]

    samples += static_cast<long long>(image) * channels * pixels;
    head += static_cast<long long>(image) * clusters * channels;
    // Zero beyond the last pixel, so that it adds nothing to the gradient.
    const auto load_sample = [&](unsigned *to, int channel, int pixel) {
        start_copy(to, samples + static_cast<long long>(channel) * pixels + first_pixel + pixel,
                   channel < channels && first_pixel + pixel < pixels);
    };
    for (int cluster = threadIdx.x; cluster < clusters; cluster += THREADS) histogram[cluster] = 0;

    using Scores = WarpTile<float, 1, N_TILES>;
    Scores scores;
    scores.clear();
    const auto load_for_scores = [&](int chunk, int buffer) {
        unsigned *to_pixels = pixel_words + buffer * WORDS * PIXEL_STEP;
        unsigned *to_head = head_words + buffer * 8 * N_TILES * HEAD_STEP;
#pragma unroll
        for (int i = threadIdx.x; i < WORDS * PIXELS; i += THREADS) {
            load_sample(to_pixels + i / PIXELS * PIXEL_STEP + i % PIXELS, chunk * WORDS + i / PIXELS, i % PIXELS);
        }
        for (int i = threadIdx.x; i < 8 * N_TILES * WORDS; i += THREADS) {
            const int cluster = i / WORDS, channel = chunk * WORDS + i % WORDS;
            start_copy(to_head + cluster * HEAD_STEP + i % WORDS,
                       head + static_cast<long long>(cluster) * channels + channel,
                       cluster < clusters && channel < channels);
        }
    };
    const auto add_to_scores = [&](int, int buffer) {
        scores.multiply({pixel_words + buffer * WORDS * PIXEL_STEP + 16 * warp, 1, PIXEL_STEP},
                        {head_words + buffer * 8 * N_TILES * HEAD_STEP, HEAD_STEP, 1}, WORDS);
    };
    in_chunks((channels + WORDS - 1) / WORDS, load_for_scores, add_to_scores);
    __syncthreads();

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int pixel = 16 * warp + Scores::row(0, 2 * half);
        const bool inside = first_pixel + pixel < pixels;
        Best best = {negative_infinity(), 0};
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
                const int cluster = Scores::column(n, i);
                if (cluster < clusters) best.offer(scores.sums[0][n][i], cluster);
            }
        }
        best.share();
        float total = 0;
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
                float &score = scores.sums[0][n][i];
                score = Scores::column(n, i) < clusters ? expf(score - best.score) : 0;
                total += score;
            }
        }
        total = sum_over_row(total);
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
                const int cluster = Scores::column(n, i);
                const float probability = scores.sums[0][n][i] / total;
                const float residual = probability - (cluster == best.column ? 1.0f : 0.0f);
                if (cluster < clusters) residuals[cluster * INNER_STEP + pixel] = __float_as_uint(residual);
            }
        }
        if (Scores::lane() % 4 == 0) {
            losses[pixel] = inside ? logf(total) : 0;
            if (inside) atomicAdd(histogram + best.column, 1);
        }
    }
    for (int i = clusters * PIXELS + threadIdx.x; i < rows * PIXELS; i += THREADS) {
        residuals[i / PIXELS * INNER_STEP + i % PIXELS] = 0;
    }
    const long long tile = static_cast<long long>(image) * tiles + blockIdx.x;
    gradient += tile * clusters * channels;
    using Gradient = WarpTile<float, 2, CHANNELS / 8>;
    const auto load_for_gradient = [&](int chunk, int buffer) {
        unsigned *to = channel_words + buffer * CHANNELS * INNER_STEP;
#pragma unroll
        for (int i = threadIdx.x; i < CHANNELS * PIXELS; i += THREADS) {
            load_sample(to + i / PIXELS * INNER_STEP + i % PIXELS, chunk * CHANNELS + i / PIXELS, i % PIXELS);
        }
    };
    const auto store_gradient = [&](int chunk, int buffer) {
        for (int first_row = 32 * warp; first_row < clusters; first_row += 32 * WARPS) {
            Gradient product;
            product.clear();
            product.multiply({residuals + first_row * INNER_STEP, INNER_STEP, 1},
                             {channel_words + buffer * CHANNELS * INNER_STEP, INNER_STEP, 1}, PIXELS);
#pragma unroll
            for (int m = 0; m < 2; ++m) {
#pragma unroll
                for (int n = 0; n < CHANNELS / 8; ++n) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int cluster = first_row + Gradient::row(m, i);
                        const int channel = chunk * CHANNELS + Gradient::column(n, i);
                        if (cluster < clusters && channel < channels) {
                            gradient[static_cast<long long>(cluster) * channels + channel] = product.sums[m][n][i];
                        }
                    }
                }
            }
        }
    };
    in_chunks((channels + CHANNELS - 1) / CHANNELS, load_for_gradient, store_gradient);
    // After the barriers above, losses and histogram are complete.
    if (warp == 0) {
        float sum = 0;
        for (int pixel = threadIdx.x; pixel < PIXELS; pixel += 32) sum += losses[pixel];
        sum = warp_sum(sum);
        if (threadIdx.x == 0) loss[tile] = sum;
    }
    for (int cluster = threadIdx.x; cluster < clusters; cluster += THREADS) {
        counts[tile * clusters + cluster] = histogram[cluster];
    }
}

constexpr int UPDATE_THREADS = 256;

// Results of head_gradient.
struct TileSums {
    const float *gradient;  // (B, tiles, K, C)
    const float *loss;      // (B, tiles)
    const int *counts;      // (B, tiles, K)
    int tiles;
};

// Heads and velocities (B, K, C), loss (B,) before the step, counts (B, K) int64.
struct HeadStep {
    const float *head;
    const float *velocity;
    float *new_head;
    float *new_velocity;
    float *loss;
    long long *counts;
};

// Stops the learning of an image. The blocks of one launch read the flags while one of them writes the next flags, so
// the flags come in pairs. All are null for a single update.
struct Guard {
    float *safe;            // (B, K, C), the last head that gave two labels or more
    const bool *active;     // (B,)
    const bool *collapsed;  // (B,)
    bool *next_active;
    bool *next_collapsed;
    int stop_labels;
};

// Velocity and head from the tiles' sums, in a fixed order. Head and velocity may be updated in place. One block per
// 256 entries of the head (x) and image (y); K <= 256.
__device__ void update_head(TileSums sums, HeadStep step, Guard guard, int pixels, int clusters, int channels, float lr,
                            float momentum) {
    const int image = blockIdx.y;
    const bool guarded = guard.active != nullptr;
    const bool active = !guarded || guard.active[image];
    const int size = clusters * channels;
    const int entry = blockIdx.x * UPDATE_THREADS + threadIdx.x;
    const int cluster = threadIdx.x;
    const long long first_tile = static_cast<long long>(image) * sums.tiles;
    float gradient = 0;
    long long count = 0;  // count of this thread's cluster, in every block
    if (active) {
#pragma unroll 8
        for (int tile = 0; tile < sums.tiles; ++tile) {
            if (entry < size) gradient += sums.gradient[(first_tile + tile) * size + entry];
            if (cluster < clusters) count += sums.counts[(first_tile + tile) * clusters + cluster];
        }
    }
    const int labels = __syncthreads_count(count > 0);
    const bool learning = active && (!guarded || labels >= 2);
    const bool single = active && !learning;
    if (blockIdx.x == 0) {
        if (cluster < clusters) step.counts[static_cast<long long>(image) * clusters + cluster] = count;
        if (threadIdx.x < 32) {
            float loss = 0;
            for (int tile = threadIdx.x; active && tile < sums.tiles; tile += 32) loss += sums.loss[first_tile + tile];
            loss = warp_sum(loss);
            if (threadIdx.x == 0) step.loss[image] = loss / pixels;
        }
        if (guarded && threadIdx.x == 0) {
            guard.next_active[image] = learning && labels > guard.stop_labels;
            guard.next_collapsed[image] = guard.collapsed[image] || single;
        }
    }
    if (entry >= size) return;
    const long long at = static_cast<long long>(image) * size + entry;
    if (single) step.new_head[at] = guard.safe[at];
    if (!learning) return;
    const float before = step.head[at];
    const float velocity = momentum * step.velocity[at] + gradient / pixels;
    if (guarded) guard.safe[at] = before;
    step.new_velocity[at] = velocity;
    step.new_head[at] = before - lr * velocity;
}

// features (R, N) to samples: for each phase p < phases the pixels offset + p, offset + p + stride, ... as one (R, n_p)
// block, the blocks one after another. Pixels before the offset do not count; phases <= stride.
template <typename T>
__device__ void sample_phases(const T *__restrict__ features, int rows, int pixels, int offset, int stride, int phases,
                              float *__restrict__ samples) {
    const int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    const int phase = pixel % stride;
    const int left = pixels - offset;
    if (pixel >= left || phase >= phases) return;
    const int whole = left / stride, longer = left % stride;
    const long long before = static_cast<long long>(phase) * whole + min(phase, longer);
    const int length = whole + (phase < longer);
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        samples[before * rows + static_cast<long long>(row) * length + pixel / stride] =
            to_float(features[static_cast<long long>(row) * pixels + offset + pixel]);
    }
}

// Parameters in TensorRT's order for plugins: inputs, integers, outputs.
#define HEAD_GRADIENT(N_TILES, WARPS, WORDS)                                                                          \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 2) head_gradient_n##N_TILES(                             \
        const float *samples, const float *head, const bool *active, int channels, int pixels, int clusters,          \
        float *gradient, float *loss, int *counts) {                                                                  \
        head_gradient<N_TILES, WARPS, WORDS>(samples, head, active, channels, pixels, clusters, gradient, loss,       \
                                             counts);                                                                 \
    }
#define SAMPLE_PHASES(T, TYPE)                                                                                        \
    extern "C" __global__ void sample_phases_##TYPE(const T *features, int rows, int pixels, int offset, int stride,  \
                                                    int phases, float *samples) {                                     \
        sample_phases<T>(features, rows, pixels, offset, stride, phases, samples);                                    \
    }

HEAD_GRADIENT(4, 4, 16)
HEAD_GRADIENT(8, 4, 16)
HEAD_GRADIENT(13, 4, 16)
HEAD_GRADIENT(16, 4, 16)
HEAD_GRADIENT(32, 2, 8)

SAMPLE_PHASES(float, f32)
SAMPLE_PHASES(half_t, f16)
SAMPLE_PHASES(bfloat_t, bf16)

// A single step. Learning rate and momentum are passed as the bits of floats, because a plugin only has integers.
extern "C" __global__ void __launch_bounds__(UPDATE_THREADS)
    head_update(const float *gradient, const float *tile_loss, const int *tile_counts, const float *head,
                const float *velocity, int tiles, int pixels, int clusters, int channels, int lr, int momentum,
                float *new_head, float *new_velocity, float *loss, long long *counts) {
    update_head({gradient, tile_loss, tile_counts, tiles}, {head, velocity, new_head, new_velocity, loss, counts}, {},
                pixels, clusters, channels, __uint_as_float(lr), __uint_as_float(momentum));
}

// A step of the guarded loop, in place.
extern "C" __global__ void __launch_bounds__(UPDATE_THREADS)
    head_update_guarded(const float *gradient, const float *tile_loss, const int *tile_counts, const bool *active,
                        const bool *collapsed, int tiles, int pixels, int clusters, int channels, int lr, int momentum,
                        int stop_labels, float *head, float *velocity, float *safe, bool *next_active,
                        bool *next_collapsed, float *loss, long long *counts) {
    update_head({gradient, tile_loss, tile_counts, tiles}, {head, velocity, head, velocity, loss, counts},
                {safe, active, collapsed, next_active, next_collapsed, stop_labels}, pixels, clusters, channels,
                __uint_as_float(lr), __uint_as_float(momentum));
}
