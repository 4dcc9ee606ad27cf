// The scheduler of the emulated CUDA threads.
//
// Blocks run one after the other, in an order that follows from the seed. Within a block, one warp at a time runs as far
// as it can before the next one starts: a missing __syncthreads() then gives a wrong answer at once, where turns would
// hide it. What is undefined on a GPU is NaN here: shared memory at a block's start, shuffles from lanes that are not there.
#include "cuda_emulator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

Thread* current;
Dimensions block_index, block_size, grid_size;

namespace {

constexpr size_t STACK = 128 << 10;

enum State { READY, WAITING, DONE };

// --- Switching between the scheduler and a thread ------------------------------------------------------------------

#if defined(__x86_64__)
typedef void* Context;
extern "C" void emulator_switch(Context* from, Context to);
// Saves what the calling convention says a function must save, changes stacks, and returns there.
asm(R"(
.text
.type emulator_switch,@function
emulator_switch:
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
)");
void start(Context& context, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + STACK) & ~uintptr_t(15));
  *--top = nullptr;  // so that the stack is aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context = top;
}
void switch_to(Context& from, Context& to) { emulator_switch(&from, to); }
#else
typedef ucontext_t Context;
void start(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = STACK;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
void switch_to(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

struct Fiber : Thread {
  Context context;
  State state;
  void* fake_stack;  // an address sanitizer's
};

Context scheduler;
char* stacks;  // kept from launch to launch: the system's zero pages take longer than small kernels
size_t stack_count;
std::vector<Fiber> fibers;
std::vector<std::pair<const void*, void*>> shared_arrays;
void* dynamic_array;
void (*kernel)(void**);
void** kernel_args;
unsigned random_state;
char message[200];

Fiber& self() { return *static_cast<Fiber*>(current); }
char* stack_of(const Fiber& f) { return stacks + f.number * STACK; }

// An address sanitizer is told before every change of stacks, and after it.
#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack;
size_t scheduler_size;
void* scheduler_fake_stack;

void leaves_scheduler(Fiber& f) { __sanitizer_start_switch_fiber(&scheduler_fake_stack, stack_of(f), STACK); }
void is_in_scheduler() { __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr); }
void leaves_thread(Fiber& f) {
  void** kept = f.state == DONE ? nullptr : &f.fake_stack;
  __sanitizer_start_switch_fiber(kept, scheduler_stack, scheduler_size);
}
void is_in_thread(Fiber& f) { __sanitizer_finish_switch_fiber(f.fake_stack, &scheduler_stack, &scheduler_size); }
void forget_threads() { __asan_unpoison_memory_region(stacks, STACK * stack_count); }  // that did not return
#else
void leaves_scheduler(Fiber&) {}
void is_in_scheduler() {}
void leaves_thread(Fiber&) {}
void is_in_thread(Fiber&) {}
void forget_threads() {}
#endif

void go_on(Fiber& f) {
  current = &f;
  leaves_scheduler(f);
  switch_to(scheduler, f.context);
  is_in_scheduler();
}

void back_to_scheduler(Fiber& f) {
  leaves_thread(f);
  switch_to(f.context, scheduler);
  is_in_thread(f);
}

// Shared memory, one piece for each array and not a byte too many: an address sanitizer knows its end.
void* allocated(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 16, bytes)) abort();
  return memory;
}

void run_thread() {
  is_in_thread(self());
  kernel(kernel_args);
  self().state = DONE;
  back_to_scheduler(self());
}

unsigned random_below(unsigned limit) {
  random_state = random_state * 1664525u + 1013904223u;
  return (random_state >> 8) % limit;
}

const char* error(const char* what) {
  snprintf(message, sizeof message, "%s in block (%u, %u, %u)", what, block_index.x, block_index.y, block_index.z);
  return message;
}

// Let the lanes of a warp go on that wait for each other, all of them there; hand over what they give.
bool release_lanes(size_t first, size_t last, const char*& fault) {
  for (size_t i = first; i < last; ++i) {
    if (fibers[i].state != WAITING || fibers[i].meeting == BLOCK) continue;
    unsigned mask = fibers[i].mask, present = 0;
    bool complete = true;
    for (size_t j = first; j < last; ++j) {
      if (!(mask >> (j - first) & 1) || fibers[j].state == DONE) continue;
      bool waits = fibers[j].state == WAITING && fibers[j].meeting != BLOCK && fibers[j].mask == mask;
      if (waits && fibers[j].meeting != fibers[i].meeting) fault = error("lanes of a warp meet in different functions");
      complete = complete && waits;
      present |= 1u << (j - first);
    }
    if (!(mask >> (i - first) & 1)) fault = error("a lane is not in its own mask");
    if (fault) return false;
    if (!complete) continue;
    uint64_t votes = 0;
    for (size_t j = first; j < last; ++j)
      if (present >> (j - first) & 1 && fibers[j].given) votes |= 1u << (j - first);
    for (size_t j = first; j < last; ++j) {
      if (!(present >> (j - first) & 1)) continue;
      Fiber& f = fibers[j];
      bool is_there = present >> f.source & 1;
      if (f.meeting == SHUFFLE) f.taken = is_there ? fibers[first + f.source].given : ~uint64_t(0);
      if (f.meeting == BALLOT) f.taken = votes;
      f.state = READY;
    }
    return true;
  }
  return false;
}

bool run_warp(size_t warp, bool shuffles, const char*& fault) {
  size_t first = 32 * warp, last = std::min(fibers.size(), first + 32), count = last - first;
  bool any = false;
  for (;;) {
    bool progress = false;
    unsigned turn = shuffles ? random_below(32) : 0, reversed = shuffles && random_below(2);
    for (size_t k = 0; k < count; ++k) {
      size_t lane = (k + turn) % count;
      Fiber& f = fibers[first + (reversed ? count - 1 - lane : lane)];
      if (f.state != READY) continue;
      progress = true;
      go_on(f);
    }
    progress = release_lanes(first, last, fault) || progress;
    any = any || progress;
    if (!progress || fault) return any;
  }
}

const char* run_block(bool shuffles) {
  size_t count = fibers.size(), warps = (count + 31) / 32;
  for (size_t i = 0; i < count; ++i) {
    Fiber& f = fibers[i];
    f.index = {unsigned(i % block_size.x), unsigned(i / block_size.x % block_size.y),
               unsigned(i / (block_size.x * block_size.y))};
    f.number = unsigned(i);
    f.state = READY;
    f.fake_stack = nullptr;
    start(f.context, stack_of(f), run_thread);
  }
  std::vector<size_t> order(warps);
  for (size_t i = 0; i < warps; ++i) order[i] = i;
  for (;;) {
    if (shuffles)
      for (size_t i = warps - 1; i > 0; --i) std::swap(order[i], order[random_below(unsigned(i + 1))]);
    bool progress = false;
    const char* fault = nullptr;
    for (size_t warp : order) {
      progress = run_warp(warp, shuffles, fault) || progress;
      if (fault) return fault;
    }
    size_t done = 0, waiting = 0;
    for (Fiber& f : fibers) {
      done += f.state == DONE;
      waiting += f.state == WAITING && f.meeting == BLOCK;
    }
    if (done == count) return nullptr;
    if (waiting == count) {
      for (Fiber& f : fibers) f.state = READY;
      continue;
    }
    if (waiting && done + waiting == count) return error("__syncthreads() that only a part of the threads reaches");
    if (!progress) return error("deadlock: threads wait for others that do not come");
  }
}

}  // namespace

void meet(Meeting meeting, unsigned mask) {
  Fiber& f = self();
  f.meeting = meeting;
  f.mask = mask;
  f.state = WAITING;
  back_to_scheduler(f);
}

void* shared(const void* tag, size_t bytes) {
  for (auto& [known, memory] : shared_arrays)
    if (known == tag) return memory;
  void* memory = allocated(bytes);
  memset(memory, 0xff, bytes);
  shared_arrays.emplace_back(tag, memory);
  return memory;
}

void* dynamic_shared() { return dynamic_array; }

const char* launch(void (*body)(void**), void** args, const unsigned* grid, const unsigned* block, size_t dynamic_bytes,
                   unsigned seed, bool flushes_denormals) {
  uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
  size_t threads = size_t(block[0]) * block[1] * block[2];
  grid_size = {grid[0], grid[1], grid[2]};
  block_size = {block[0], block[1], block[2]};
  block_index = {0, 0, 0};
  if (!blocks || !threads || threads > 1024 || grid[1] > 65535 || grid[2] > 65535)
    return error("a launch with a size that CUDA refuses");
  kernel = body;
  kernel_args = args;
  random_state = seed;
  fibers.resize(threads);
  if (threads > stack_count) {
    free(stacks);
    stacks = static_cast<char*>(aligned_alloc(64, STACK * threads));
    stack_count = threads;
  }
  dynamic_array = allocated(dynamic_bytes);
  // Every block once: counting on by a step that has no divisor in common with their number, from a random start.
  uint64_t step = 1, position = 0;
  if (seed && blocks > 1) {
    position = random_below(unsigned(std::min<uint64_t>(blocks, 1u << 24)));
    auto divisor = [](uint64_t a, uint64_t b) {
      while (b) std::swap(a %= b, b);
      return a;
    };
    do step = 1 + random_below(unsigned(std::min<uint64_t>(blocks, 1u << 24)));
    while (divisor(step, blocks) != 1);
  }
#if defined(__x86_64__)
  unsigned control = _mm_getcsr();
  if (flushes_denormals) _mm_setcsr(control | 0x8040);  // flush to zero, denormals are zeros: what -ftz=true does
#endif
  const char* fault = nullptr;
  for (uint64_t i = 0; i < blocks && !fault; ++i, position = (position + step) % blocks) {
    block_index = {unsigned(position % grid[0]), unsigned(position / grid[0] % grid[1]),
                   unsigned(position / (uint64_t(grid[0]) * grid[1]))};
    memset(dynamic_array, 0xff, dynamic_bytes);
    fault = run_block(seed != 0);
    for (auto& [tag, memory] : shared_arrays) free(memory);
    shared_arrays.clear();
  }
#if defined(__x86_64__)
  _mm_setcsr(control);
#endif
  if (fault) forget_threads();
  free(dynamic_array);
  return fault;
}

}  // namespace emulator
