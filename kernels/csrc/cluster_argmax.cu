// Labels and counts of pixels under a cluster head, without a score map: a block scores 128 pixels against all clusters
// in registers and keeps only the best.
#include <warp_tile.cuh>

constexpr int WARPS = 4;
constexpr int M_TILES = 2;
constexpr int PIXELS = 16 * M_TILES * WARPS;  // pixels of one block
constexpr int WORDS = 16;                     // words of the channels in shared memory at a time
constexpr int PIXEL_STEP = PIXELS + 8;
constexpr int HEAD_STEP = WORDS + 4;

// features (B, C, N), head (B or 1, K, C), labels (B, N) of label_bytes each, counts (B, tiles, K) of each tile of pixels.
// One block per tile and image. A pass handles 8 N_TILES clusters.
template <typename T, int N_TILES>
__device__ void cluster_argmax(const T *__restrict__ features, const T *__restrict__ head, int channels, int pixels,
                               int clusters, int shared_head, int label_bytes, void *__restrict__ labels,
                               int *__restrict__ counts) {
    constexpr int VALUES = Word<T>::VALUES;
    SharedMemory shared;
    unsigned *memory = shared.take<unsigned>(BUFFERS * (WORDS * PIXEL_STEP + 8 * N_TILES * HEAD_STEP));
    unsigned *feature_words = memory;                             // [buffer][word][pixel]
    unsigned *head_words = memory + BUFFERS * WORDS * PIXEL_STEP;  // [buffer][cluster][word]
    static_assert(N_TILES < 16 || WORDS * PIXEL_STEP + 8 * N_TILES * HEAD_STEP >= 4096, "the histogram has no room");
    int *histogram = reinterpret_cast<int *>(memory);             // in the end: 4096 clusters or fewer

    const int tiles = (pixels + PIXELS - 1) / PIXELS;
    const int image = blockIdx.x / tiles;
    const int first_pixel = blockIdx.x % tiles * PIXELS;
    const int warp = threadIdx.x / 32;
    features += static_cast<long long>(image) * channels * pixels;
    if (!shared_head) head += static_cast<long long>(image) * clusters * channels;

    using Tile = WarpTile<T, M_TILES, N_TILES>;
    Best best[M_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) best[m][half] = {negative_infinity(), 0};
    }
    for (int first_cluster = 0; first_cluster < clusters; first_cluster += 8 * N_TILES) {
        Tile scores;
        scores.clear();
        const auto load = [&](int chunk, int buffer) {
            unsigned *to_features = feature_words + buffer * WORDS * PIXEL_STEP + threadIdx.x;
            const int first_channel = chunk * WORDS * VALUES, pixel = first_pixel + threadIdx.x;
#pragma unroll 8
            for (int word = 0; word < WORDS; ++word) {
                const int channel = first_channel + word * VALUES;
                Word<T>::load(to_features + word * PIXEL_STEP,
                              features + static_cast<long long>(channel) * pixels + pixel, pixels,
                              pixel < pixels ? channels - channel : 0);
            }
            const int word = threadIdx.x % WORDS, row = threadIdx.x / WORDS, channel = first_channel + word * VALUES;
            unsigned *to_head = head_words + (buffer * 8 * N_TILES + row) * HEAD_STEP + word;
#pragma unroll 8
            for (int n = 0; n < N_TILES; ++n) {
                const int cluster = first_cluster + 8 * n + row;
                Word<T>::load(to_head + 8 * n * HEAD_STEP, head + static_cast<long long>(cluster) * channels + channel, 1,
                              cluster < clusters ? channels - channel : 0);
            }
        };
        const auto use = [&](int, int buffer) {
            scores.multiply({feature_words + buffer * WORDS * PIXEL_STEP + 16 * M_TILES * warp, 1, PIXEL_STEP},
                            {head_words + buffer * 8 * N_TILES * HEAD_STEP, HEAD_STEP, 1}, WORDS);
        };
        in_chunks((channels + WORDS * VALUES - 1) / (WORDS * VALUES), load, use);
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int cluster = first_cluster + Tile::column(n, i);
                    if (cluster < clusters) best[m][i / 2].offer(scores.sums[m][n][i], cluster);
                }
            }
        }
    }
    __syncthreads();
    for (int cluster = threadIdx.x; cluster < clusters; cluster += 32 * WARPS) histogram[cluster] = 0;
    __syncthreads();
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            best[m][half].share();
            const int pixel = first_pixel + 16 * M_TILES * warp + Tile::row(m, 2 * half);
            if (Tile::lane() % 4 != 0 || pixel >= pixels) continue;
            const int cluster = best[m][half].column;
            const long long at = static_cast<long long>(image) * pixels + pixel;
            if (label_bytes == 1) {
                static_cast<unsigned char *>(labels)[at] = static_cast<unsigned char>(cluster);
            } else if (label_bytes == 2) {
                static_cast<unsigned short *>(labels)[at] = static_cast<unsigned short>(cluster);
            } else {
                static_cast<int *>(labels)[at] = cluster;
            }
            atomicAdd(histogram + cluster, 1);
        }
    }
    __syncthreads();
    for (int cluster = threadIdx.x; cluster < clusters; cluster += 32 * WARPS) {
        counts[static_cast<long long>(blockIdx.x) * clusters + cluster] = histogram[cluster];
    }
}

// Parameters in TensorRT's order for plugins: inputs, integers, outputs.
#define CLUSTER_ARGMAX(T, TYPE, N_TILES)                                                                              \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) cluster_argmax_##TYPE##_n##N_TILES(                      \
        const T *features, const T *head, int channels, int pixels, int clusters, int shared_head, int label_bytes,   \
        void *labels, int *counts) {                                                                                  \
        cluster_argmax<T, N_TILES>(features, head, channels, pixels, clusters, shared_head, label_bytes, labels,      \
                                   counts);                                                                           \
    }
#define CLUSTER_ARGMAX_OF(T, TYPE)                                                                                    \
    CLUSTER_ARGMAX(T, TYPE, 4)                                                                                        \
    CLUSTER_ARGMAX(T, TYPE, 8)                                                                                        \
    CLUSTER_ARGMAX(T, TYPE, 13)                                                                                       \
    CLUSTER_ARGMAX(T, TYPE, 16)

CLUSTER_ARGMAX_OF(float, f32)
CLUSTER_ARGMAX_OF(half_t, f16)
CLUSTER_ARGMAX_OF(bfloat_t, bf16)
