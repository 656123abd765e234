// `megaphi._T`: torch's operators `megaphi::*`, through torch's stable ABI, so that one binary works with torch 2.10
// and newer. Each function checks its arguments, allocates the outputs and calls the kernel of the tensors' device.
// Schemas, fake kernels, autograd and friendly errors are in Python (megaphi/kernels), one file per operator.
#include "operator_support.h"

namespace megaphi {
namespace {

// ---- rms_norm ----

void check_weight(const Tensor& weight, const Tensor& x) {
  check(weight.dim() == 1 && weight.size(0) == width_of(x) && weight.scalar_type() == x.scalar_type() &&
            same_device(weight, x),
        "rms_norm: weight must be [width of x], of x's type and device");
}

std::tuple<Tensor, Tensor, Tensor> normalise(Tensor x, const MaybeTensor& residual, Tensor weight, double eps) {
  check_weight(weight, x);
  x = packed(x);
  weight = packed(weight);
  std::vector<int64_t> rows = shape_of(x);
  rows.pop_back();
  Tensor y = new_like(x), sum = residual.has_value() ? new_like(x) : x, rstd = new_tensor(x, rows, accumulator_of(x));
  const bool adds = residual.has_value();
  const RmsNormForward arguments{data(x),
                                 data(residual),
                                 data(weight),
                                 y.mutable_data_ptr(),
                                 adds ? sum.mutable_data_ptr() : nullptr,
                                 rstd.mutable_data_ptr(),
                                 rows_of(x),
                                 width_of(x),
                                 eps};
  const Launch launch(x);
  check_status(launch.kernels.rms_norm_forward(arguments, element_of(x, "x"), launch.stream), "rms_norm");
  return {y, sum, rstd};
}

std::tuple<Tensor, Tensor> rms_norm(Tensor x, Tensor weight, double eps) {
  auto [y, sum, rstd] = normalise(x, std::nullopt, weight, eps);
  return {y, rstd};
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm(Tensor x, Tensor residual, Tensor weight, double eps) {
  check_like(residual, x, "add_rms_norm: residual must have x's shape, type and device");
  return normalise(x, packed(residual), weight, eps);
}

std::tuple<Tensor, Tensor> rms_norm_backward(Tensor grad_y, MaybeTensor grad_sum, Tensor x, Tensor weight,
                                             Tensor rstd) {
  check_like(grad_y, x, "rms_norm_backward: grad_y must have x's shape, type and device");
  if (grad_sum.has_value()) check_like(*grad_sum, x, "rms_norm_backward: grad_sum must be like x");
  check_weight(weight, x);
  check_row_vector(rstd, x, accumulator_of(x), "rms_norm_backward: rstd must be what the forward pass returned");
  grad_y = packed(grad_y), x = packed(x), weight = packed(weight), rstd = packed(rstd);
  grad_sum = maybe_packed(grad_sum);
  const Launch launch(x);
  const int64_t partials = launch.kernels.rms_norm_workspace(rows_of(x), width_of(x));
  Tensor grad_x = new_like(x), grad_weight = new_like(weight), workspace = new_tensor(x, {partials}, accumulator_of(x));
  const RmsNormBackward arguments{data(grad_y),
                                  data(grad_sum),
                                  data(x),
                                  data(weight),
                                  data(rstd),
                                  grad_x.mutable_data_ptr(),
                                  grad_weight.mutable_data_ptr(),
                                  workspace.mutable_data_ptr(),
                                  rows_of(x),
                                  width_of(x)};
  check_status(launch.kernels.rms_norm_backward(arguments, element_of(x, "x"), launch.stream), "rms_norm_backward");
  return {grad_x, grad_weight};
}

// ---- rotary ----

void rotate(const Tensor& x, void* y, Tensor cos, Tensor sin, MaybeTensor positions, int64_t offset, int64_t rotated,
            bool inverse) {
  check(x.dim() == 5 && x.size(4) % 2 == 0, "rotary: x must be [S, B, G, heads, K] with K even");
  check(cos.dim() == 2 && cos.size(1) * 2 == x.size(4), "rotary: cos must be [positions, K / 2]");
  check(cos.scalar_type() == accumulator_of(x) && same_device(cos, x), "rotary: cos must be float32");
  check_like(sin, cos, "rotary: sin must be like cos");
  check(0 <= rotated && rotated <= x.size(3), "rotary: rotated must lie between 0 and the heads of a group");
  positions = maybe_packed(positions);
  if (positions.has_value()) {
    check(positions->dim() == 2 && positions->size(0) == x.size(0) && positions->size(1) == x.size(1) &&
              positions->scalar_type() == ScalarType::Long && same_device(*positions, x),
          "rotary: positions must be int64 [S, B]");
    check_below(*positions, cos.size(0), "rotary: positions beyond the table of cos and sin");
  } else {
    check(0 <= offset && offset <= cos.size(0) - x.size(0), "rotary: positions beyond the table of cos and sin");
  }
  cos = packed(cos), sin = packed(sin);
  const Rotary arguments{data(x),
                         y,
                         data(cos),
                         data(sin),
                         static_cast<const int64_t*>(data(positions)),
                         x.size(0) * x.size(1),
                         x.size(1),
                         x.size(2),
                         x.size(3),
                         rotated,
                         x.size(4),
                         offset,
                         cos.size(0),
                         inverse ? -1.0 : 1.0};
  const Launch launch(x);
  check_status(launch.kernels.rotary(arguments, element_of(x, "x"), launch.stream), "rotary");
}

Tensor rotary(Tensor x, Tensor cos, Tensor sin, MaybeTensor positions, int64_t offset, int64_t rotated, bool inverse) {
  x = packed(x);
  Tensor y = new_like(x);
  rotate(x, y.mutable_data_ptr(), cos, sin, positions, offset, rotated, inverse);
  return y;
}

void rotary_(Tensor x, Tensor cos, Tensor sin, MaybeTensor positions, int64_t offset, int64_t rotated, bool inverse) {
  if (x.is_contiguous()) {
    rotate(x, x.mutable_data_ptr(), cos, sin, positions, offset, rotated, inverse);
  } else {
    torch::stable::copy_(x, rotary(x, cos, sin, positions, offset, rotated, inverse));
  }
}

// ---- causal_softmax, masked_softmax ----

void check_scores(const Tensor& x, bool causal) {
  check(x.dim() == 4, "softmax: x must be [B, H, queries, keys]");
  check(!causal || x.size(3) >= x.size(2), "causal_softmax: fewer keys than queries");
}

void softmax_into(void* y, const Tensor& x, const MaybeTensor& mask, double scale, bool causal) {
  check_scores(x, causal);
  int64_t strides[3] = {0, 0, 0};
  if (mask.has_value()) {
    check(mask->dim() == 4 && mask->scalar_type() == ScalarType::Bool && same_device(*mask, x) &&
              mask->is_contiguous(),
          "masked_softmax: mask must be a contiguous bool tensor of four dimensions");
    for (int64_t i = 0, stride = mask->numel(); i < 3; i++) {
      check(mask->size(i) == x.size(i) || mask->size(i) == 1, "masked_softmax: mask does not broadcast to x");
      if (mask->size(i) > 0) stride /= mask->size(i);
      strides[i] = mask->size(i) == 1 ? 0 : stride;
    }
    check(mask->size(3) == x.size(3), "masked_softmax: mask must have all keys");
  }
  const SoftmaxForward arguments{data(x),
                                 static_cast<const uint8_t*>(data(mask)),
                                 y,
                                 x.size(0),
                                 x.size(1),
                                 x.size(2),
                                 x.size(3),
                                 strides[0],
                                 strides[1],
                                 strides[2],
                                 scale,
                                 causal};
  const Launch launch(x);
  check_status(launch.kernels.softmax_forward(arguments, element_of(x, "x"), launch.stream), "softmax");
}

Tensor softmax(Tensor x, const MaybeTensor& mask, double scale, bool causal) {
  x = packed(x);
  Tensor y = new_like(x);
  softmax_into(y.mutable_data_ptr(), x, mask, scale, causal);
  return y;
}

void softmax_(Tensor x, const MaybeTensor& mask, double scale, bool causal) {
  if (x.is_contiguous()) {
    softmax_into(x.mutable_data_ptr(), x, mask, scale, causal);
  } else {
    torch::stable::copy_(x, softmax(x, mask, scale, causal));
  }
}

Tensor causal_softmax(Tensor x, double scale) { return softmax(x, std::nullopt, scale, true); }
void causal_softmax_(Tensor x, double scale) { softmax_(x, std::nullopt, scale, true); }

Tensor masked_softmax(Tensor x, Tensor mask, double scale) { return softmax(x, packed(mask), scale, false); }
void masked_softmax_(Tensor x, Tensor mask, double scale) { softmax_(x, packed(mask), scale, false); }

Tensor softmax_backward(Tensor grad_y, Tensor y, double scale, bool causal) {
  check_scores(y, causal);
  check_like(grad_y, y, "softmax_backward: grad_y must have y's shape, type and device");
  grad_y = packed(grad_y), y = packed(y);
  Tensor grad_x = new_like(y);
  const SoftmaxBackward arguments{data(grad_y), data(y),   grad_x.mutable_data_ptr(), y.size(0), y.size(1),
                                  y.size(2),    y.size(3), scale,                     causal};
  const Launch launch(y);
  check_status(launch.kernels.softmax_backward(arguments, element_of(y, "y"), launch.stream), "softmax_backward");
  return grad_x;
}

// ---- paged_attention ----

void check_cache(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& tables,
                 const Tensor& lengths) {
  check(query.dim() == 3 && keys.dim() == 4 && keys.size(2) > 0 && keys.size(1) > 0 &&
            query.size(1) % keys.size(2) == 0 && query.size(2) == keys.size(3),
        "paged_attention: query must be [T, H, K] and keys [N, P, G, K], H a multiple of G");
  check(keys.scalar_type() == query.scalar_type() && same_device(keys, query) && keys.is_contiguous(),
        "paged_attention: keys must be contiguous, of query's type and device");
  check_like(values, keys, "paged_attention: values must be like keys");
  check(values.is_contiguous(), "paged_attention: values must be contiguous");
  check(tables.dim() == 2 && tables.size(0) == query.size(0) && tables.scalar_type() == ScalarType::Int &&
            same_device(tables, query),
        "paged_attention: tables must be int32 [T, M] on query's device");
  check(lengths.dim() == 1 && lengths.size(0) == query.size(0) && lengths.scalar_type() == ScalarType::Int &&
            same_device(lengths, query),
        "paged_attention: lengths must be int32 [T] on query's device");
}

// Checking costs nothing on the CPU, where a wrong block number would read outside the cache.
void check_blocks(const PagedAttention& a) {
  for (int64_t t = 0; t < a.tokens; t++) {
    check(1 <= a.lengths[t] && a.lengths[t] <= a.table_width * a.positions, "paged_attention: a length out of range");
    for (int64_t m = 0; m * a.positions < a.lengths[t]; m++) {
      const int32_t block = a.tables[t * a.table_width + m];
      check(0 <= block && block < a.blocks, "paged_attention: a block number out of range");
    }
  }
}

Tensor paged_attention(Tensor query, Tensor keys, Tensor values, Tensor tables, Tensor lengths, double scale) {
  check_cache(query, keys, values, tables, lengths);
  if (query.stride(2) != 1) query = packed(query);
  tables = packed(tables), lengths = packed(lengths);
  Tensor y = new_like(query);
  PagedAttention arguments{data(query),
                           data(keys),
                           data(values),
                           static_cast<const int32_t*>(data(tables)),
                           static_cast<const int32_t*>(data(lengths)),
                           y.mutable_data_ptr(),
                           nullptr,
                           query.size(0),
                           query.size(1),
                           keys.size(2),
                           query.size(2),
                           keys.size(0),
                           keys.size(1),
                           tables.size(1),
                           query.stride(0),
                           query.stride(1),
                           scale};
  if (query.is_cpu()) check_blocks(arguments);
  const Launch launch(query);
  Tensor workspace = new_tensor(query, {launch.kernels.paged_attention_workspace(arguments)}, accumulator_of(query));
  arguments.workspace = workspace.mutable_data_ptr();
  check_status(launch.kernels.paged_attention(arguments, element_of(query, "query"), launch.stream), "paged_attention");
  return y;
}

// ---- swiglu ----

std::vector<int64_t> half_width(const Tensor& x) {
  check(x.dim() >= 1 && width_of(x) % 2 == 0, "swiglu: the last dimension of x is [gate | up] and must be even");
  std::vector<int64_t> shape = shape_of(x);
  shape.back() /= 2;
  return shape;
}

Tensor swiglu(Tensor x) {
  x = packed(x);
  Tensor y = new_tensor(x, half_width(x), x.scalar_type());
  const SwigluForward arguments{data(x), y.mutable_data_ptr(), rows_of(x), width_of(x) / 2};
  const Launch launch(x);
  check_status(launch.kernels.swiglu_forward(arguments, element_of(x, "x"), launch.stream), "swiglu");
  return y;
}

void swiglu_gradient(const Tensor& grad_y, const Tensor& x, void* grad_x, void* y) {
  const SwigluBackward arguments{data(grad_y), data(x), grad_x, y, rows_of(x), width_of(x) / 2};
  const Launch launch(x);
  check_status(launch.kernels.swiglu_backward(arguments, element_of(x, "x"), launch.stream), "swiglu_backward");
}

void check_swiglu_gradient(const Tensor& grad_y, const Tensor& x) {
  check(shape_of(grad_y) == half_width(x) && grad_y.scalar_type() == x.scalar_type() && same_device(grad_y, x),
        "swiglu_backward: grad_y must be half as wide as x, of its type and device");
}

Tensor swiglu_backward(Tensor grad_y, Tensor x) {
  check_swiglu_gradient(grad_y, x);
  grad_y = packed(grad_y), x = packed(x);
  Tensor grad_x = new_like(x);
  swiglu_gradient(grad_y, x, grad_x.mutable_data_ptr(), nullptr);
  return grad_x;
}

void swiglu_backward_and_forward_(Tensor grad_y, Tensor x) {
  check_swiglu_gradient(grad_y, x);
  check(grad_y.is_contiguous() && x.is_contiguous(), "swiglu_backward_and_forward_: tensors must be contiguous");
  swiglu_gradient(grad_y, x, x.mutable_data_ptr(), grad_y.mutable_data_ptr());
}

// ---- cross_entropy ----

void check_labels(const Tensor& logits, const Tensor& labels, int64_t first) {
  check(logits.dim() == 2, "cross_entropy: logits must be [tokens, vocabulary]");
  check(0 <= first && first <= int64_t{1} << 62, "cross_entropy: a vocabulary does not begin below zero");
  check(labels.dim() == 1 && labels.size(0) == logits.size(0) && labels.scalar_type() == ScalarType::Long &&
            same_device(labels, logits),
        "cross_entropy: labels must be int64 [tokens] on the logits' device");
}

Tensor cross_entropy_statistics(Tensor logits, Tensor labels, int64_t first) {
  check_labels(logits, labels, first);
  logits = packed(logits), labels = packed(labels);
  Tensor stats = new_tensor(logits, {logits.size(0), 3}, accumulator_of(logits));
  const CrossEntropyForward arguments{data(logits),
                                      static_cast<const int64_t*>(data(labels)),
                                      stats.mutable_data_ptr(),
                                      logits.size(0),
                                      logits.size(1),
                                      first};
  const Launch launch(logits);
  check_status(launch.kernels.cross_entropy_forward(arguments, element_of(logits, "logits"), launch.stream),
               "cross_entropy_statistics");
  return stats;
}

void cross_entropy_gradient(const Tensor& logits, void* grad_logits, Tensor labels, Tensor totals, Tensor grad,
                            int64_t first, int64_t ignored, double z_weight) {
  check_labels(logits, labels, first);
  check(totals.dim() == 2 && totals.size(0) == logits.size(0) && totals.size(1) == 2 &&
            totals.scalar_type() == accumulator_of(logits) && same_device(totals, logits),
        "cross_entropy_backward: totals must be float32 [tokens, 2]");
  check_row_vector(grad, logits, accumulator_of(logits), "cross_entropy_backward: grad must be float32 [tokens]");
  labels = packed(labels), totals = packed(totals), grad = packed(grad);
  const CrossEntropyBackward arguments{data(logits),
                                       grad_logits,
                                       static_cast<const int64_t*>(data(labels)),
                                       data(totals),
                                       data(grad),
                                       logits.size(0),
                                       logits.size(1),
                                       first,
                                       ignored,
                                       z_weight};
  const Launch launch(logits);
  check_status(launch.kernels.cross_entropy_backward(arguments, element_of(logits, "logits"), launch.stream),
               "cross_entropy_backward");
}

Tensor cross_entropy_backward(Tensor logits, Tensor labels, Tensor totals, Tensor grad, int64_t first, int64_t ignored,
                              double z_weight) {
  logits = packed(logits);
  Tensor grad_logits = new_like(logits);
  cross_entropy_gradient(logits, grad_logits.mutable_data_ptr(), labels, totals, grad, first, ignored, z_weight);
  return grad_logits;
}

void cross_entropy_backward_(Tensor logits, Tensor labels, Tensor totals, Tensor grad, int64_t first, int64_t ignored,
                             double z_weight) {
  check(logits.is_contiguous(), "cross_entropy_backward_: logits must be contiguous");
  cross_entropy_gradient(logits, logits.mutable_data_ptr(), labels, totals, grad, first, ignored, z_weight);
}

void run_with_torch(int64_t count, int64_t grain, RangeBody body, void* context) {
  torch::stable::parallel_for(0, count, grain,
                              [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

}  // namespace
}  // namespace megaphi

// Called once by Python, with the address from `_C`.
extern "C" __attribute__((visibility("default"))) void megaphi_attach(const megaphi::Attachment* attachment) {
  megaphi::attached = attachment;
  attachment->set_parallel_for(megaphi::run_with_torch);
}

#define MEGAPHI_OPERATORS(library)                                                            \
  library.impl("rms_norm", TORCH_BOX(&megaphi::rms_norm));                                    \
  library.impl("add_rms_norm", TORCH_BOX(&megaphi::add_rms_norm));                            \
  library.impl("rms_norm_backward", TORCH_BOX(&megaphi::rms_norm_backward));                  \
  library.impl("rotary", TORCH_BOX(&megaphi::rotary));                                        \
  library.impl("rotary_", TORCH_BOX(&megaphi::rotary_));                                      \
  library.impl("causal_softmax", TORCH_BOX(&megaphi::causal_softmax));                        \
  library.impl("causal_softmax_", TORCH_BOX(&megaphi::causal_softmax_));                      \
  library.impl("masked_softmax", TORCH_BOX(&megaphi::masked_softmax));                        \
  library.impl("masked_softmax_", TORCH_BOX(&megaphi::masked_softmax_));                      \
  library.impl("softmax_backward", TORCH_BOX(&megaphi::softmax_backward));                    \
  library.impl("paged_attention", TORCH_BOX(&megaphi::paged_attention));                      \
  library.impl("swiglu", TORCH_BOX(&megaphi::swiglu));                                        \
  library.impl("swiglu_backward", TORCH_BOX(&megaphi::swiglu_backward));                      \
  library.impl("swiglu_backward_and_forward_", TORCH_BOX(&megaphi::swiglu_backward_and_forward_)); \
  library.impl("cross_entropy_statistics", TORCH_BOX(&megaphi::cross_entropy_statistics));    \
  library.impl("cross_entropy_backward", TORCH_BOX(&megaphi::cross_entropy_backward));        \
  library.impl("cross_entropy_backward_", TORCH_BOX(&megaphi::cross_entropy_backward_))

STABLE_TORCH_LIBRARY_IMPL(megaphi, CPU, library) { MEGAPHI_OPERATORS(library); }
#ifdef MEGAPHI_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(megaphi, CUDA, library) { MEGAPHI_OPERATORS(library); }
#endif
