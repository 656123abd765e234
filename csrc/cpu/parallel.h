// Distributes rows over threads: by OpenMP, or by a pool that the process already has (`_T` passes torch's, so that
// torch.set_num_threads applies here too and two pools do not compete for the cores).
#pragma once
#include <cstdint>

namespace megaphi {

using RangeBody = void (*)(void* context, int64_t begin, int64_t end);
// Call `body` on ranges that cover [0, count), each of at least `grain` elements except the last.
using ParallelFor = void (*)(int64_t count, int64_t grain, RangeBody body, void* context);

void set_parallel_for(ParallelFor runner);
void run_parallel(int64_t count, int64_t grain, RangeBody body, void* context);

// `function(begin, end)` over [0, rows) with at least `grain_elements` elements of work per range.
template <class Function>
void parallel_rows(int64_t rows, int64_t elements_per_row, Function function) {
  constexpr int64_t grain_elements = 32768;
  const int64_t grain = elements_per_row > grain_elements ? 1 : grain_elements / (elements_per_row + 1) + 1;
  auto body = [](void* context, int64_t begin, int64_t end) { (*static_cast<Function*>(context))(begin, end); };
  if (rows > 0) run_parallel(rows, grain, body, &function);
}

}  // namespace megaphi
