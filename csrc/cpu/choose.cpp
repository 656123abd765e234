// Detects the processor once, and holds the process's thread runner.
#include "choose.h"

#include <atomic>

#include "parallel.h"

namespace megaphi {

namespace base {
extern const KernelTable table;
}
#ifdef MEGAPHI_X86
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif

namespace {

struct Variant {
  std::string name;
  const KernelTable* table;
};

std::vector<Variant> usable_variants() {
  std::vector<Variant> found;
#ifdef MEGAPHI_X86
  __builtin_cpu_init();
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool fused = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (wide && fused) found.push_back({"avx512", &avx512::table});
  if (fused) found.push_back({"avx2", &avx2::table});
#endif
  found.push_back({"base", &base::table});
  return found;
}

const std::vector<Variant>& variants() {
  static const std::vector<Variant> found = usable_variants();
  return found;
}

std::atomic<size_t> chosen{0};

void run_with_openmp(int64_t count, int64_t grain, RangeBody body, void* context) {
  const int64_t ranges = (count + grain - 1) / grain;
#pragma omp parallel for schedule(dynamic) if (ranges > 1)
  for (int64_t range = 0; range < ranges; range++) {
    const int64_t begin = range * grain;
    body(context, begin, begin + grain < count ? begin + grain : count);
  }
}

std::atomic<ParallelFor> runner{run_with_openmp};

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Variant& variant : variants()) names.push_back(variant.name);
  return names;
}

std::string instruction_set() { return variants()[chosen].name; }

bool use_instruction_set(const std::string& name) {
  for (size_t number = 0; number < variants().size(); number++) {
    if (variants()[number].name != name) continue;
    chosen = number;
    return true;
  }
  return false;
}

const KernelTable& cpu_kernels() { return *variants()[chosen].table; }

void set_parallel_for(ParallelFor other) { runner = other; }

void run_parallel(int64_t count, int64_t grain, RangeBody body, void* context) {
  runner.load()(count, grain, body, context);
}

}  // namespace megaphi
