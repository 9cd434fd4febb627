// Runs the threads of a CUDA block as fibers of one CPU thread: a fiber runs until it waits at a barrier or for its warp,
// then another one does, drawn at random from a seed. A missing barrier therefore lets threads see each other's memory
// half written; built with the thread sanitiser, which knows the fibers and the barriers, it is reported as a data race
// whatever the order.
#pragma once

#include <algorithm>

namespace emulator {

struct Index {
    unsigned x, y, z;
};

struct Launch {
    Index grid, block;
    int shared_bytes;
};

struct Block {
    Index index;
};

struct Thread {
    Index index;
};

const Launch &launch();
const Block &block();
const Thread &thread();

// Ends the process with a message that names the block and the thread.
void check(bool condition, const char *message);

// Waits for all threads of the block. Returns in how many of them the predicate held.
int block_barrier(bool predicate);

// Waits for the 32 threads of the warp.
void warp_barrier();

// The warp's collective operations wait for all its threads too, but order no memory: what one thread wrote and another
// reads needs a barrier, as on a GPU.
unsigned shuffle_xor(unsigned value, int distance);
bool any(bool predicate);

// d += A B on fragments laid out over the lanes as the PTX ISA says, in float64, then rounded toward zero, as tensor
// cores round. `multiply` gives the product of two words.
void multiply_fragments(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                        double (*multiply)(unsigned, unsigned));

// Copies that the thread has started and not yet waited for. Until then, what they write is undefined: the caller of
// start_copy() writes garbage at once and the word when wait has come to it, so that both moments are seen.
struct Copy {
    unsigned *to;
    unsigned word;
};
void start_copy(Copy copy);
bool take_copy(Copy &copy);  // false: none is left

// The block's shared array number `order`, the same for every thread.
void *shared_array(int order, int bytes);

// Runs one grid, blocks one after another in a shuffled order.
void run(const Launch &launch, unsigned long long seed, void (*kernel)(const void *), const void *arguments);

}  // namespace emulator
