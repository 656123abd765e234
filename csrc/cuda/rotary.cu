// Rotary positions for the queries and keys of a packed QKV, one launch for both, in place or into a copy.
//
// A thread owns one vector of a head's first half and its partner in the second half; it reads cos and sin of its token
// once and walks over the heads. A CTA is a box: x along the half head, y over heads, z over tokens. In place only the
// rotated heads are visited. A position outside the tables turns its token's rotated heads to NaN: a wrong offset must
// not go unnoticed.
#include "launch.cuh"

namespace megaphi::cuda {

constexpr int ROTARY_THREADS = 256, LARGEST_BLOCK_Z = 64;

// Lanes of cos or sin for this position, NaN where the tables do not reach.
template <int N>
__device__ __forceinline__ void read_table(const void* table, int64_t position, int64_t half, int64_t column,
                                           bool inside, float (&value)[N]) {
  constexpr int LANES = N < 4 ? N : 4;
  const float* from = static_cast<const float*>(table) + (inside ? position : 0) * half + column;
#pragma unroll
  for (int i = 0; i < N; i += LANES) {
    float part[LANES];
    if (inside) unpack(load_shared_by_all<LANES>(from + i), part);
#pragma unroll
    for (int j = 0; j < LANES; ++j) value[i + j] = inside ? part[j] : NAN;
  }
}

template <class T, int N>
__device__ __forceinline__ void rotate(Vector<T, N>& first, Vector<T, N>& second, const float (&cos)[N],
                                       const float (&sin)[N]) {
  float a[N], b[N];
  unpack(first, a);
  unpack(second, b);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float turned = a[j] * cos[j] - b[j] * sin[j];
    b[j] = b[j] * cos[j] + a[j] * sin[j];
    a[j] = turned;
  }
  first = pack<T>(a);
  second = pack<T>(b);
}

template <class T, int N>
__global__ void __launch_bounds__(ROTARY_THREADS) rotary_kernel(Rotary arguments) {
  const int64_t half = arguments.head_size / 2;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * blockDim.z + threadIdx.z;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  if (token >= arguments.tokens || column >= half) return;
  const int64_t* positions = arguments.positions;
  const int64_t position = positions ? positions[token] : arguments.offset + token / arguments.batch;
  const bool inside = position >= 0 && position < arguments.table_rows;
  float cos[N], sin[N];
  read_table(arguments.cos, position, half, column, inside, cos);
  read_table(arguments.sin, position, half, column, inside, sin);
#pragma unroll
  for (int j = 0; j < N; ++j) sin[j] *= static_cast<float>(arguments.sign);
  const unsigned visited = arguments.x == arguments.y ? arguments.rotated : arguments.heads;  // heads in every group
  for (unsigned i = threadIdx.y; i < arguments.groups * visited; i += blockDim.y) {
    const unsigned group = i / visited, head = i % visited;
    const int64_t at = ((token * arguments.groups + group) * arguments.heads + head) * arguments.head_size + column;
    Vector<T, N> first = load<N>(static_cast<const T*>(arguments.x) + at);
    Vector<T, N> second = load<N>(static_cast<const T*>(arguments.x) + at + half);
    if (head < arguments.rotated) rotate(first, second, cos, sin);
    store(static_cast<T*>(arguments.y) + at, first);
    store(static_cast<T*>(arguments.y) + at + half, second);
  }
}

// Heads are distributed evenly: 50 heads over at most 32 threads become two rounds of 25.
template <class T, int N>
void launch_rotary(const Rotary& arguments, void* stream) {
  const int64_t vectors = arguments.head_size / 2 / N;
  const int64_t heads = arguments.groups * (arguments.x == arguments.y ? arguments.rotated : arguments.heads);
  const int64_t along = std::min<int64_t>(vectors, ROTARY_THREADS);
  const int64_t rounds = ceiling_divide(heads, std::min(heads, ROTARY_THREADS / along));
  const int64_t over_heads = ceiling_divide(heads, rounds);
  const int64_t over_tokens = std::clamp<int64_t>(ROTARY_THREADS / (along * over_heads), 1, LARGEST_BLOCK_Z);
  const dim3 grid(ceiling_divide(arguments.tokens, over_tokens), ceiling_divide(vectors, along));
  launch(rotary_kernel<T, N>, grid, dim3(along, over_heads, over_tokens), stream, arguments);
}

int32_t rotary(const Rotary& arguments, Element element, void* stream) {
  const bool has_heads = arguments.x == arguments.y ? arguments.rotated > 0 : arguments.heads > 0;
  const bool has_work = arguments.tokens > 0 && arguments.groups > 0 && arguments.head_size > 0 && has_heads;
  return for_element(element, has_work, [&](auto type) {
    using T = typename decltype(type)::Type;
    const bool fits =
        vectors_fit<T>(arguments.head_size / 2, {arguments.x, arguments.y, arguments.cos, arguments.sin});
    fits ? launch_rotary<T, FULL<T>>(arguments, stream) : launch_rotary<T, 1>(arguments, stream);
  });
}

}  // namespace megaphi::cuda
