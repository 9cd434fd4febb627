#include <emulator.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

// This file is compiled without the thread sanitiser, whose view it is the one to shape: FIND_RACES says that the rest
// is compiled with it. Its own bookkeeping must not call what the sanitiser intercepts while fibers run.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(FIND_RACES)
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__)
// Saves the registers that a called function must keep, and the two words of floating-point control.
extern "C" void switch_stack(void **from, void *to);
asm(R"(
.text
.globl switch_stack
.type switch_stack, @function
switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size switch_stack, .-switch_stack
)");
#else
#include <ucontext.h>
#endif

namespace emulator {
namespace {

constexpr int MAX_COPIES = 128;  // that a thread has started and not waited for
constexpr std::size_t STACK_BYTES = 256 * 1024;

// What a thread brings to an operation of its warp, and what it gets back.
struct Exchange {
    unsigned value;
    float d[4];
    unsigned a[4], b[2];
};

struct Fiber : Thread {
    char *stack = nullptr;
    unsigned number = 0;
    bool finished = false;
#if defined(__x86_64__)
    void *top = nullptr;
#else
    ucontext_t context;
#endif
    const void *stack_bottom = nullptr;
    std::size_t stack_bytes = 0;
    void *sanitizer = nullptr;  // the fake stack (address) or the fiber (thread)
    Exchange exchange;
    int count = 0;
    Copy copies[MAX_COPIES];
    int started = 0;
};

struct Warp {
    std::vector<Fiber *> waiting;
};

struct SharedArray {
    void *memory;
    int bytes;
};

Launch current_launch;
Block current_block;
Fiber scheduler;
Fiber *current = &scheduler;
std::vector<Fiber> fibers;
std::vector<Fiber *> runnable, at_barrier;
int present;  // threads of the block whose predicate held at the barrier
std::vector<Warp> warps;
std::vector<SharedArray> shared;
unsigned finished;
unsigned long long random_state;
void (*current_kernel)(const void *);
const void *current_arguments;

unsigned random_below(std::size_t limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return static_cast<unsigned>((random_state >> 11) % limit);
}

void switch_to(Fiber &next) {
    Fiber &previous = *current;
    current = &next;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(previous.finished ? nullptr : &previous.sanitizer, next.stack_bottom, next.stack_bytes);
#elif defined(FIND_RACES)
    __tsan_switch_to_fiber(next.sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__x86_64__)
    switch_stack(&previous.top, next.top);
#else
    swapcontext(&previous.context, &next.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(previous.sanitizer, nullptr, nullptr);
#endif
}

// What the thread sanitiser is told of the barriers: all that came before one happens before all that comes after.
void release(void *barrier) {
#if defined(FIND_RACES)
    __tsan_release(barrier);
#else
    (void)barrier;
#endif
}

void acquire(void *barrier) {
#if defined(FIND_RACES)
    __tsan_acquire(barrier);
#else
    (void)barrier;
#endif
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack_bottom, &scheduler.stack_bytes);
#endif
    acquire(&current_launch);
    current_kernel(current_arguments);
    check(current->started == 0, "the thread ends before its copies do");
    release(&finished);
    current->finished = true;
    ++finished;
    switch_to(scheduler);
    std::abort();
}

void prepare(Fiber &fiber) {
    fiber.finished = false;
#if defined(__x86_64__)
    auto top = reinterpret_cast<std::uintptr_t>(fiber.stack + STACK_BYTES) & ~std::uintptr_t(15);
    auto *words = reinterpret_cast<void **>(top);
    *--words = nullptr;                                   // where fiber_main would return to
    *--words = reinterpret_cast<void *>(&fiber_main);
    for (int i = 0; i < 6; ++i) *--words = nullptr;
    fiber.top = words;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
#endif
}

void run_block() {
    const unsigned threads = current_launch.block.x;
    finished = 0;
    for (unsigned number = 0; number < threads; ++number) {
        prepare(fibers[number]);
        runnable.push_back(&fibers[number]);
    }
    while (!runnable.empty()) {
        std::swap(runnable[random_below(runnable.size())], runnable.back());
        Fiber *next = runnable.back();
        runnable.pop_back();
        switch_to(*next);
    }
    acquire(&finished);
    current = &scheduler;
    check(finished == threads, "some threads wait for others that have ended or wait elsewhere");
    int bytes = 0;
    for (SharedArray &array : shared) {
        bytes += (array.bytes + 15) / 16 * 16;
        std::free(array.memory);
    }
    if (!shared.empty() && bytes != current_launch.shared_bytes) {
        std::fprintf(stderr, "emulator: the launch gives %d bytes of shared memory, the kernel takes %d\n",
                     current_launch.shared_bytes, bytes);
        std::exit(3);
    }
    shared.clear();
}

// Waits for the warp's 32 threads; the last to come works on what all have brought.
template <typename Work>
void wait_for_warp(const Work &work) {
    Fiber &self = *current;
    Warp &warp = warps[self.number / 32];
    warp.waiting.push_back(&self);
    if (warp.waiting.size() == 32) {
        work(&fibers[self.number / 32 * 32]);
        for (Fiber *fiber : warp.waiting) runnable.push_back(fiber);
        warp.waiting.clear();
    }
    switch_to(scheduler);
}

}  // namespace

const Launch &launch() { return current_launch; }
const Block &block() { return current_block; }
const Thread &thread() { return *current; }

void check(bool condition, const char *message) {
    if (condition) return;
    std::fprintf(stderr, "emulator: block (%u, %u, %u), thread %u: %s\n", current_block.index.x, current_block.index.y,
                 current_block.index.z, current->number, message);
    std::exit(3);
}

int block_barrier(bool predicate) {
    Fiber &self = *current;
    present += predicate;
    release(&at_barrier);
    at_barrier.push_back(&self);
    if (at_barrier.size() == fibers.size()) {
        for (Fiber *fiber : at_barrier) {
            fiber->count = present;
            runnable.push_back(fiber);
        }
        at_barrier.clear();
        present = 0;
    }
    switch_to(scheduler);
    acquire(&at_barrier);
    return self.count;
}

void warp_barrier() {
    Warp &warp = warps[current->number / 32];
    release(&warp);
    wait_for_warp([](Fiber *) {});
    acquire(&warp);
}

unsigned shuffle_xor(unsigned value, int distance) {
    Fiber &self = *current;
    self.exchange.value = value;
    wait_for_warp([distance](Fiber *lanes) {
        unsigned moved[32];
        for (int lane = 0; lane < 32; ++lane) moved[lane] = lanes[lane ^ distance].exchange.value;
        for (int lane = 0; lane < 32; ++lane) lanes[lane].exchange.value = moved[lane];
    });
    return self.exchange.value;
}

bool any(bool predicate) {
    Fiber &self = *current;
    self.exchange.value = predicate;
    wait_for_warp([](Fiber *lanes) {
        unsigned held = 0;
        for (int lane = 0; lane < 32; ++lane) held |= lanes[lane].exchange.value;
        for (int lane = 0; lane < 32; ++lane) lanes[lane].exchange.value = held;
    });
    return self.exchange.value != 0;
}

static float toward_zero(double value) {
    const float nearest = float(value);
    return std::fabs(double(nearest)) > std::fabs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

void multiply_fragments(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                        double (*multiply)(unsigned, unsigned)) {
    Exchange &mine = current->exchange;
    std::copy(d, d + 4, mine.d);
    std::copy(a, a + 4, mine.a);
    std::copy(b, b + 2, mine.b);
    wait_for_warp([multiply](Fiber *lanes) {
        unsigned rows[16][8], columns[8][8];
        double sums[16][8];
        for (int lane = 0; lane < 32; ++lane) {
            const Exchange &part = lanes[lane].exchange;
            const int group = lane / 4, member = lane % 4;
            for (int i = 0; i < 4; ++i) {
                rows[group + 8 * (i % 2)][member + 4 * (i / 2)] = part.a[i];
                sums[group + 8 * (i / 2)][2 * member + i % 2] = part.d[i];
            }
            for (int i = 0; i < 2; ++i) columns[group][member + 4 * i] = part.b[i];
        }
        for (int row = 0; row < 16; ++row) {
            for (int column = 0; column < 8; ++column) {
                for (int word = 0; word < 8; ++word) {
                    sums[row][column] += multiply(rows[row][word], columns[column][word]);
                }
            }
        }
        for (int lane = 0; lane < 32; ++lane) {
            for (int i = 0; i < 4; ++i) {
                lanes[lane].exchange.d[i] = toward_zero(sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2]);
            }
        }
    });
    std::copy(mine.d, mine.d + 4, d);
}

void start_copy(Copy copy) {
    check(current->started < MAX_COPIES, "the thread has more copies under way than the emulator keeps");
    current->copies[current->started++] = copy;
}

bool take_copy(Copy &copy) {
    if (current->started == 0) return false;
    copy = current->copies[--current->started];
    return true;
}

void *shared_array(int order, int bytes) {
    if (order == static_cast<int>(shared.size())) {
        shared.push_back({std::malloc(bytes), bytes});
        volatile auto *memory = static_cast<unsigned *>(shared.back().memory);  // volatile: no call of memset
        for (int i = 0; i < bytes / 4; ++i) memory[i] = 0xffffffffu;
        release(shared.back().memory);
    }
    acquire(shared[order].memory);
    check(shared[order].bytes == bytes, "threads take different shared arrays");
    return shared[order].memory;
}

void run(const Launch &launch, unsigned long long seed, void (*kernel)(const void *), const void *arguments) {
    current_launch = launch;
    random_state = seed * 0x9e3779b97f4a7c15ull + 1;
    current_kernel = kernel;
    current_arguments = arguments;
    check(launch.block.x % 32 == 0, "blocks are emulated in whole warps");
    fibers.resize(launch.block.x);
    warps.resize(launch.block.x / 32);
    for (Warp &warp : warps) warp.waiting.reserve(32);
    runnable.reserve(launch.block.x);
    at_barrier.reserve(launch.block.x);
    shared.reserve(16);
    release(&current_launch);
#if defined(FIND_RACES)
    scheduler.sanitizer = __tsan_get_current_fiber();
#endif
    for (unsigned number = 0; number < launch.block.x; ++number) {
        fibers[number].number = number;
        fibers[number].index = {number, 0, 0};
        fibers[number].stack = static_cast<char *>(std::malloc(STACK_BYTES));
        fibers[number].stack_bottom = fibers[number].stack;
        fibers[number].stack_bytes = STACK_BYTES;
#if defined(FIND_RACES)
        fibers[number].sanitizer = __tsan_create_fiber(0);
#endif
    }
    std::vector<Index> blocks;
    for (unsigned z = 0; z < launch.grid.z; ++z) {
        for (unsigned y = 0; y < launch.grid.y; ++y) {
            for (unsigned x = 0; x < launch.grid.x; ++x) blocks.push_back({x, y, z});
        }
    }
    for (std::size_t left = blocks.size(); left > 0; --left) {
        std::swap(blocks[random_below(left)], blocks[left - 1]);
        current_block.index = blocks[left - 1];
        run_block();
    }
}

}  // namespace emulator
