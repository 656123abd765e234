// The threads of a CTA as fibers, and who of them may run.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr int WARP = 32, LARGEST_CTA = 1024;
constexpr size_t STACK_BYTES = 1 << 16;

enum class State { ready, at_barrier, in_shuffle, ended };

struct Fiber {
  ucontext_t context;
  State state;
  float shuffled;
};

ucontext_t scheduler;
std::vector<Fiber> fibers;
std::vector<char> stacks;
const std::function<void()>* body;
int current;
uint32_t random_state = 1;

void give_way(State state) {
  fibers[current].state = state;
  swapcontext(&fibers[current].context, &scheduler);
}

void run_thread() {
  (*body)();
  give_way(State::ended);
}

void start(int thread) {
  Fiber& fiber = fibers[thread];
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stacks.data() + thread * STACK_BYTES;
  fiber.context.uc_stack.ss_size = STACK_BYTES;
  fiber.state = State::ready;
  makecontext(&fiber.context, run_thread, 0);
}

void resume(int thread) {
  current = thread;
  threadIdx = dim3(thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y);
  swapcontext(&scheduler, &fibers[thread].context);
}

// From a random thread on, upwards or downwards.
bool run_all_that_are_ready() {
  random_state = random_state * 1664525 + 1013904223;
  const int threads = fibers.size(), first = (random_state >> 8) % threads, step = random_state >> 31 ? 1 : threads - 1;
  bool has_run = false;
  for (int i = 0, thread = first; i < threads; i++, thread = (thread + step) % threads) {
    if (fibers[thread].state != State::ready) continue;
    resume(thread);
    has_run = true;
  }
  return has_run;
}

// Lets the threads [first, last) go on if all of them, but for those that have ended, wait in this state.
bool release(int first, int last, State state) {
  bool has_waiting = false;
  for (int thread = first; thread < last; thread++) {
    if (fibers[thread].state == State::ended && state == State::at_barrier) continue;
    if (fibers[thread].state != state) return false;
    has_waiting = true;
  }
  for (int thread = first; thread < last; thread++) {
    if (fibers[thread].state == state) fibers[thread].state = State::ready;
  }
  return has_waiting;
}

bool has_ended() {
  return std::all_of(fibers.begin(), fibers.end(), [](const Fiber& fiber) { return fiber.state == State::ended; });
}

void run_cta() {
  const int threads = fibers.size();
  for (int thread = 0; thread < threads; thread++) start(thread);
  while (!has_ended()) {
    bool goes_on = run_all_that_are_ready();
    for (int warp = 0; warp < threads; warp += WARP)
      goes_on |= release(warp, std::min(warp + WARP, threads), State::in_shuffle);
    goes_on |= release(0, threads, State::at_barrier);
    if (!goes_on && !has_ended()) {
      fprintf(stderr, "the threads of CTA (%u, %u) wait for each other at different places\n", blockIdx.x, blockIdx.y);
      abort();
    }
  }
}

}  // namespace

void __syncthreads() { give_way(State::at_barrier); }

// Everybody puts, then everybody takes, then everybody goes on: nobody puts again before all have taken.
float __shfl_xor_sync(unsigned, float value, int distance) {
  const int self = current;
  fibers[self].shuffled = value;
  give_way(State::in_shuffle);
  const float taken = fibers[self ^ distance].shuffled;
  give_way(State::in_shuffle);
  return taken;
}

void run_grid(dim3 grid, dim3 block, const std::function<void()>& thread) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads > LARGEST_CTA || block.z > 64 || grid.y > 65535 || grid.z > 65535) {
    fprintf(stderr, "no GPU takes (%u, %u, %u) CTAs of %u threads\n", grid.x, grid.y, grid.z, threads);
    abort();
  }
  fibers.resize(threads);
  stacks.resize(threads * STACK_BYTES);
  body = &thread;
  gridDim = grid;
  blockDim = block;
  for (unsigned z = 0; z < grid.z; z++) {
    for (unsigned y = 0; y < grid.y; y++) {
      for (unsigned x = 0; x < grid.x; x++) {
        blockIdx = dim3(x, y, z);
        run_cta();
      }
    }
  }
}
