// The interface of every fused kernel, on the CPU and on CUDA alike: plain pointers and sizes, no torch types.
//
// A kernel is one function that takes a struct of named arguments, an element type and a stream (a cudaStream_t, unused
// on the CPU) and returns a status: 0, or a cudaError_t. All functions of one device form a `KernelTable`. `_C` owns
// the tables, `_T` binds them to torch's operators, tests call them directly.
//
// Tensors are contiguous. `accumulator` below is float, or double where the elements are f64 (CPU only, for gradient
// checks). Rows and widths fit in 31 bits, their product need not: every offset is computed in 64 bits. Zero rows are
// allowed. Callers have checked shapes, types and ranges; kernels trust them.
//
// Legend: S sequence, B batch, H heads, G key-value groups, K head size, F feed-forward, V this rank's vocabulary.
#pragma once
#include <cstdint>

namespace megaphi {

enum class Element : int32_t { f32 = 0, bf16 = 1, f16 = 2, f64 = 3 };

constexpr int UNSUPPORTED = 801;  // cudaErrorNotSupported: no kernel for this element type

// y = sum * rstd * weight, sum = x + residual (x alone where residual is null), rstd = 1 / sqrt(mean(sum^2) + eps).
// The sum is rounded to the element type before it is normalised, as if it had been computed by itself.
struct RmsNormForward {
  const void* x;         // [rows, width]
  const void* residual;  // [rows, width] or null
  const void* weight;    // [width]
  void* y;               // [rows, width]
  void* sum;             // [rows, width], null exactly where residual is
  void* rstd;            // accumulator [rows]
  int64_t rows, width;
  double eps;
};

// grad_x = rstd * (g - xhat * mean(g * xhat)) + grad_sum, g = grad_y * weight, xhat = x * rstd;
// grad_weight = sum over rows of grad_y * xhat.
struct RmsNormBackward {
  const void* grad_y;    // [rows, width]
  const void* grad_sum;  // [rows, width] or null: the other gradient of the normalised input
  const void* x;         // [rows, width], the normalised input (the sum, if there was a residual)
  const void* weight;    // [width]
  const void* rstd;      // accumulator [rows]
  void* grad_x;          // [rows, width]
  void* grad_weight;     // [width], element type
  void* workspace;       // accumulator [rms_norm_workspace(rows, width)], may be null where that is 0
  int64_t rows, width;
};

// Rotary positions (rotate-half): for the first `rotated` heads of every group, with a, b the two halves of a head,
// a' = a cos - b sin, b' = b cos + a sin. Megatron's packed QKV [S, B, G, H/G + 2, K] has its queries and key first in
// every group: rotated = heads - 1. `y` may be `x`; then the other heads are left alone, else they are copied.
struct Rotary {
  const void* x;             // [tokens, groups, heads, head_size], tokens = S * B, batch fastest
  void* y;                   // like x
  const void* cos;           // accumulator [table_rows, head_size / 2]
  const void* sin;           // accumulator [table_rows, head_size / 2]
  const int64_t* positions;  // [tokens] or null; null means offset + token / batch
  int64_t tokens, batch, groups, heads, rotated, head_size, offset, table_rows;
  double sign;  // 1, or -1 to rotate back (the gradient)
};

// y = softmax(scale * x) over keys that are visible: j <= q + keys - queries where causal, and mask[...] == 0 where
// there is a mask. A row that sees nothing is all zeros. Masked elements of x are not read under `causal`. `y` may be
// `x`.
struct SoftmaxForward {
  const void* x;        // [batch, heads, queries, keys]
  const uint8_t* mask;  // or null; non-zero hides; (b, h, q, j) is at b*mask_batch + h*mask_head + q*mask_query + j
  void* y;              // like x
  int64_t batch, heads, queries, keys, mask_batch, mask_head, mask_query;
  double scale;
  bool causal;
};

// grad_x = scale * y * (grad_y - sum(grad_y * y)); zero beyond the diagonal where causal, which is not read.
struct SoftmaxBackward {
  const void* grad_y;
  const void* y;
  void* grad_x;
  int64_t batch, heads, queries, keys;
  double scale;
  bool causal;
};

// Attention of single queries over a key-value cache in blocks: y[t, h] = sum of softmax(scale * q . key) * value over
// the first lengths[t] positions of query t, q = query[t, h]. Position j is place j % positions of block
// tables[t, j / positions]; head h shares the keys and values of group h / (heads / groups). Nothing beyond a query's
// length is read, in its table or in its last block. A query's result does not depend on the other queries.
struct PagedAttention {
  const void* query;       // [tokens, heads, head_size], (t, h, 0) at t * query_token + h * query_head
  const void* keys;        // [blocks, positions, groups, head_size]
  const void* values;      // like keys
  const int32_t* tables;   // [tokens, table_width]
  const int32_t* lengths;  // [tokens], at least 1
  void* y;                 // [tokens, heads, head_size]
  void* workspace;         // float [paged_attention_workspace(arguments)], may be null where that is 0
  int64_t tokens, heads, groups, head_size, blocks, positions, table_width, query_token, query_head;
  double scale;
};

// y = silu(gate) * up, x = [gate | up].
struct SwigluForward {
  const void* x;  // [rows, 2 * width]
  void* y;        // [rows, width]
  int64_t rows, width;
};

// `grad_x` may be `x`, and `y` may be `grad_y`.
struct SwigluBackward {
  const void* grad_y;  // [rows, width]
  const void* x;       // [rows, 2 * width]
  void* grad_x;        // [rows, 2 * width]
  void* y;             // [rows, width] or null: the forward result once more, for a backward pass that did not keep it
  int64_t rows, width;
};

// One read of this rank's logits. stats[row] = (m, s, t): m = max over V, s = sum over V of exp(logit - m), t = logit
// of the label where first <= label < first + V, else 0. Labels outside mean "another rank's" or "ignored".
struct CrossEntropyForward {
  const void* logits;     // [rows, V]
  const int64_t* labels;  // [rows], ids of the whole vocabulary
  void* stats;            // accumulator [rows, 3]
  int64_t rows, width, first;
};

// grad_logits = grad * (softmax * (1 + 2 z_weight lse) - onehot(label)) with softmax = exp(logit - m) / s and lse = m +
// log s of the whole vocabulary. (Rounding m + log s to one fp32 would cost the softmax a digit.) Rows with label ==
// ignored get zeros, whatever their logits hold. `grad_logits` may be `logits`.
struct CrossEntropyBackward {
  const void* logits;     // [rows, V]
  void* grad_logits;      // [rows, V]
  const int64_t* labels;  // [rows]
  const void* totals;     // accumulator [rows, 2]: (m, s) over all ranks
  const void* grad;       // accumulator [rows], gradient of each row's loss
  int64_t rows, width, first, ignored;
  double z_weight;
};

struct KernelTable {
  int32_t (*rms_norm_forward)(const RmsNormForward&, Element, void* stream);
  int32_t (*rms_norm_backward)(const RmsNormBackward&, Element, void* stream);
  int64_t (*rms_norm_workspace)(int64_t rows, int64_t width);
  int32_t (*rotary)(const Rotary&, Element, void* stream);
  int32_t (*softmax_forward)(const SoftmaxForward&, Element, void* stream);
  int32_t (*softmax_backward)(const SoftmaxBackward&, Element, void* stream);
  int32_t (*paged_attention)(const PagedAttention&, Element, void* stream);
  int64_t (*paged_attention_workspace)(const PagedAttention&);  // reads nothing but sizes
  int32_t (*swiglu_forward)(const SwigluForward&, Element, void* stream);
  int32_t (*swiglu_backward)(const SwigluBackward&, Element, void* stream);
  int32_t (*cross_entropy_forward)(const CrossEntropyForward&, Element, void* stream);
  int32_t (*cross_entropy_backward)(const CrossEntropyBackward&, Element, void* stream);
};

}  // namespace megaphi

// The CUDA table (csrc/cuda/table.cu), of C linkage so that a test can find it in a shared library by name.
extern "C" const megaphi::KernelTable* megaphi_cuda_kernels();
