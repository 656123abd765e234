// Shared by all torch operators: their kernels, their stream, the checks that memory safety requires, new tensors.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>
#include <vector>

#include "attachment.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

#ifdef MEGAPHI_WITH_CUDA
// Exported by libtorch_cuda; torch's header shows it only to code that is compiled with torch's own USE_CUDA.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
#endif

namespace megaphi {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline const Attachment* attached = nullptr;

inline Element element_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Element::f32;
    case ScalarType::BFloat16: return Element::bf16;
    case ScalarType::Half: return Element::f16;
    case ScalarType::Double: return Element::f64;
    default: STD_TORCH_CHECK(false, name, ": float32, bfloat16, float16 or (CPU only) float64");
  }
}

inline ScalarType accumulator_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The kernels of a tensor's device, its current stream, and a guard that makes the device current during a launch.
struct Launch {
  const KernelTable& kernels;
  void* stream = nullptr;
  std::optional<torch::stable::accelerator::DeviceGuard> guard;

  explicit Launch(const Tensor& tensor) : kernels(kernels_for(tensor)) {
#ifdef MEGAPHI_WITH_CUDA
    if (tensor.is_cpu()) return;
    guard.emplace(tensor.get_device_index());
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
#endif
  }

  static const KernelTable& kernels_for(const Tensor& tensor) {
    STD_TORCH_CHECK(attached != nullptr, "megaphi's operators were used before megaphi.kernels was imported");
    if (tensor.is_cpu()) return attached->cpu_kernels();
    STD_TORCH_CHECK(attached->cuda_kernels != nullptr, "megaphi was built without CUDA kernels");
    return *attached->cuda_kernels;
  }
};

inline void check_status(int32_t status, const char* name) {
  STD_TORCH_CHECK(status != UNSUPPORTED, name, ": no kernel for this element type on this device");
  STD_TORCH_CHECK(status == 0, name, ": the launch failed with CUDA error ", status);
}

inline void check(bool condition, const char* message) { STD_TORCH_CHECK(condition, message); }

inline bool same_device(const Tensor& one, const Tensor& other) {
  return one.is_cpu() == other.is_cpu() && one.get_device_index() == other.get_device_index();
}

inline void check_like(const Tensor& tensor, const Tensor& model, const char* message) {
  check(tensor.scalar_type() == model.scalar_type() && tensor.sizes().equals(model.sizes()) &&
            same_device(tensor, model),
        message);
}

inline std::vector<int64_t> shape_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return std::vector<int64_t>(sizes.begin(), sizes.end());
}

inline int64_t width_of(const Tensor& tensor) { return tensor.size(tensor.dim() - 1); }
inline int64_t rows_of(const Tensor& tensor) { return width_of(tensor) == 0 ? 0 : tensor.numel() / width_of(tensor); }

inline Tensor packed(const Tensor& tensor) { return torch::stable::contiguous(tensor); }

// Ask for huge pages under a large new output: page faults on first touch would cost a CPU kernel more than its
// arithmetic. No effect where the system does not offer them on request.
inline void ask_for_huge_pages(const Tensor& tensor, int64_t bytes) {
#ifdef __linux__
  constexpr uintptr_t page = 2 << 20;
  const auto begin = (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

inline Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
  Tensor tensor = torch::stable::new_empty(like, shape, type);
  if (tensor.is_cpu()) ask_for_huge_pages(tensor, tensor.numel() * tensor.element_size());
  return tensor;
}
inline Tensor new_like(const Tensor& like) { return new_tensor(like, shape_of(like), like.scalar_type()); }

inline const void* data(const Tensor& tensor) { return tensor.const_data_ptr(); }
inline const void* data(const MaybeTensor& tensor) { return tensor.has_value() ? tensor->const_data_ptr() : nullptr; }

// That contiguous int64 numbers lie in [0, bound). Costs nothing on the CPU; a CUDA kernel looks at each by itself.
inline void check_below(const Tensor& numbers, int64_t bound, const char* message) {
  if (!numbers.is_cpu()) return;
  const auto* all = static_cast<const int64_t*>(data(numbers));
  for (int64_t i = 0; i < numbers.numel(); i++) check(0 <= all[i] && all[i] < bound, message);
}

inline MaybeTensor maybe_packed(const MaybeTensor& tensor) {
  return tensor.has_value() ? MaybeTensor(packed(*tensor)) : std::nullopt;
}

inline void check_row_vector(const Tensor& tensor, const Tensor& rows, ScalarType type, const char* message) {
  check(tensor.numel() == rows_of(rows) && tensor.scalar_type() == type && same_device(tensor, rows), message);
}

}  // namespace megaphi
