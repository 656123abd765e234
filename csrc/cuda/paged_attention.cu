// Attention of single queries over a key-value cache in blocks, in two launches. The first splits the positions of a
// query into pieces of PIECE and attends to each on its own: a CTA owns a piece for the heads of one group, up to HEADS
// of them, so that every key and value is read once for all of them. TEAM threads share a position, 128 bytes of it at
// a time; KEYS positions are in flight in each team. The second merges the pieces of a query. The split of a query and
// its order of summation depend on its own length alone.
#include "launch.cuh"
#include "reduction.cuh"

namespace megaphi::cuda {

constexpr int PIECE = 256, PIECE_THREADS = 128, TEAM = 8, KEYS = 4, LARGEST_HEAD = 512, JOIN_THREADS = 256;
constexpr int TEAMS = PIECE_THREADS / TEAM, WARPS = PIECE_THREADS / WARP;

inline __host__ __device__ int64_t pieces_of_table(const PagedAttention& arguments) {
  return (arguments.table_width * arguments.positions + PIECE - 1) / PIECE;
}

// Of all partial results: maximum and sum of every (token, head, piece), then the weighted sums of values.
struct Partials {
  float2* statistics;
  float* values;
  int64_t pieces, head_size;

  __device__ __forceinline__ explicit Partials(const PagedAttention& arguments)
      : statistics(static_cast<float2*>(arguments.workspace)),
        pieces(pieces_of_table(arguments)),
        head_size(arguments.head_size) {
    values = reinterpret_cast<float*>(statistics + arguments.tokens * arguments.heads * pieces);
  }

  // `row` is token * heads + head.
  __device__ __forceinline__ float2* statistic(int64_t row, int64_t piece) const {
    return statistics + row * pieces + piece;
  }
  __device__ __forceinline__ float* value(int64_t row, int64_t piece) const {
    return values + (row * pieces + piece) * head_size;
  }
};

// The work of a CTA: heads [head, head + heads) of a token, which share a group; positions [first, first + count).
struct Piece {
  int64_t token, group, head, number;
  int heads, count;
};

template <int HEADS>
__device__ __forceinline__ Piece own_piece(const PagedAttention& arguments) {
  const int64_t sharing = arguments.heads / arguments.groups, chunks = (sharing + HEADS - 1) / HEADS;
  const int64_t chunk = blockIdx.x % chunks, of_group = blockIdx.x / chunks;
  const int64_t group = of_group % arguments.groups, token = of_group / arguments.groups;
  const int64_t left = arguments.lengths[token] - static_cast<int64_t>(blockIdx.y) * PIECE;
  return {token,
          group,
          group * sharing + chunk * HEADS,
          blockIdx.y,
          static_cast<int>(min(static_cast<int64_t>(HEADS), sharing - chunk * HEADS)),
          static_cast<int>(min(static_cast<int64_t>(PIECE), left))};
}

// offset[i]: offset of position i of the piece in keys and values, relative to the first element of its group.
__device__ __forceinline__ void find_positions(const PagedAttention& arguments, const Piece& piece, int64_t* offset) {
  const int32_t* table = arguments.tables + piece.token * arguments.table_width;
  for (int i = threadIdx.x; i < piece.count; i += PIECE_THREADS) {
    const int64_t position = piece.number * PIECE + i, block = table[position / arguments.positions];
    const int64_t row = block * arguments.positions + position % arguments.positions;
    offset[i] = (row * arguments.groups + piece.group) * arguments.head_size;
  }
}

// Heads that the chunk does not have are zeros: they cost nothing extra, and their results are not read.
template <class T, int HEADS>
__device__ __forceinline__ void read_queries(const PagedAttention& arguments, const Piece& piece,
                                             float (*query)[LARGEST_HEAD]) {
  const T* from = static_cast<const T*>(arguments.query) + piece.token * arguments.query_token;
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    const T* row = from + (piece.head + h) * arguments.query_head;
    for (int k = threadIdx.x; k < arguments.head_size; k += PIECE_THREADS) {
      query[h][k] = h < piece.heads ? Convert<T>::widen(row[k]) : 0.0f;
    }
  }
}

// Adds the products of the team's KEYS positions and every head, over the columns of this thread.
template <class T, int N, int HEADS>
__device__ __forceinline__ void add_products(const PagedAttention& arguments, const int64_t* offset, int first,
                                             int count, const float (*query)[LARGEST_HEAD], float (&sum)[HEADS][KEYS]) {
  const T* keys = static_cast<const T*>(arguments.keys);
  for (int k = threadIdx.x % TEAM * N; k < arguments.head_size; k += TEAM * N) {
    Vector<T, N> key[KEYS] = {};
#pragma unroll
    for (int i = 0; i < KEYS; ++i) {
      if (first + i < count) key[i] = load<N>(keys + offset[first + i] + k);
    }
    float value[KEYS][N];
#pragma unroll
    for (int i = 0; i < KEYS; ++i) unpack(key[i], value[i]);
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float element = query[h][k + j];
#pragma unroll
        for (int i = 0; i < KEYS; ++i) sum[h][i] = fmaf(element, value[i][j], sum[h][i]);
      }
    }
  }
}

template <class T, int N, int HEADS>
__device__ __forceinline__ void find_scores(const PagedAttention& arguments, const Piece& piece, const int64_t* offset,
                                            const float (*query)[LARGEST_HEAD], float (*score)[PIECE]) {
  const int team = threadIdx.x / TEAM, lane = threadIdx.x % TEAM;
  for (int round = 0; round < piece.count; round += TEAMS * KEYS) {  // the same for a whole warp, which shuffles
    const int first = round + team * KEYS;
    float sum[HEADS][KEYS] = {};
    add_products<T, N, HEADS>(arguments, offset, first, piece.count, query, sum);
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
#pragma unroll
      for (int i = 0; i < KEYS; ++i) {
#pragma unroll
        for (int distance = TEAM / 2; distance > 0; distance /= 2) {
          sum[h][i] += __shfl_xor_sync(0xffffffffu, sum[h][i], distance);
        }
        const bool is_mine = lane == (h * KEYS + i) % TEAM;
        if (is_mine && first + i < piece.count) score[h][first + i] = sum[h][i] * static_cast<float>(arguments.scale);
      }
    }
  }
}

// Turns scores into weights within the piece; one warp per head.
template <int HEADS>
__device__ __forceinline__ void weigh(const Partials& partials, const PagedAttention& arguments, const Piece& piece,
                                      float (*score)[PIECE]) {
  Warp warp;
  for (int h = threadIdx.x / WARP; h < piece.heads; h += WARPS) {
    float maximum = -INFINITY, sum = 0.0f;
    for (int i = warp.rank(); i < piece.count; i += WARP) maximum = fmaxf(maximum, score[h][i]);
    maximum = warp.reduce(maximum, Maximum{});
    const float shift = shift_of(maximum);
    for (int i = warp.rank(); i < piece.count; i += WARP) {
      const float weight = expf(score[h][i] - shift);
      score[h][i] = weight;
      sum += weight;
    }
    sum = warp.reduce(sum, Sum{});
    if (warp.rank() == 0) {
      *partials.statistic(piece.token * arguments.heads + piece.head + h, piece.number) = make_float2(maximum, sum);
    }
  }
}

// TEAM * N columns of the weighted sum of values at a time: over a team's positions, a warp's teams, the warps.
template <class T, int N, int HEADS>
__device__ __forceinline__ void add_values(const Partials& partials, const PagedAttention& arguments,
                                           const Piece& piece, const int64_t* offset, const float (*weight)[PIECE],
                                           float (*of_warp)[HEADS][TEAM * N]) {
  const T* values = static_cast<const T*>(arguments.values);
  const int team = threadIdx.x / TEAM, lane = threadIdx.x % TEAM;
  for (int64_t column = 0; column < arguments.head_size; column += TEAM * N) {
    const int64_t k = column + lane * N;
    float sum[HEADS][N] = {};
    if (k < arguments.head_size) {
#pragma unroll 4
      for (int i = team; i < piece.count; i += TEAMS) {
        float value[N];
        unpack(load<N>(values + offset[i] + k), value);
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
#pragma unroll
          for (int j = 0; j < N; ++j) sum[h][j] = fmaf(weight[h][i], value[j], sum[h][j]);
        }
      }
    }
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
#pragma unroll
        for (int distance = WARP / 2; distance >= TEAM; distance /= 2) {
          sum[h][j] += __shfl_xor_sync(0xffffffffu, sum[h][j], distance);
        }
        if (threadIdx.x % WARP < TEAM) of_warp[threadIdx.x / WARP][h][lane * N + j] = sum[h][j];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < piece.heads * TEAM * N; i += PIECE_THREADS) {
      const int h = i / (TEAM * N), c = i % (TEAM * N);
      if (column + c >= arguments.head_size) continue;
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; ++w) total += of_warp[w][h][c];
      partials.value(piece.token * arguments.heads + piece.head + h, piece.number)[column + c] = total;
    }
    __syncthreads();
  }
}

template <class T, int N, int HEADS>
__global__ void __launch_bounds__(PIECE_THREADS) paged_attention_piece(PagedAttention arguments) {
  __shared__ int64_t offset[PIECE];
  __shared__ float query[HEADS][LARGEST_HEAD];
  __shared__ float score[HEADS][PIECE];
  __shared__ float of_warp[WARPS][HEADS][TEAM * N];
  const Piece piece = own_piece<HEADS>(arguments);
  if (piece.count <= 0) return;
  const Partials partials(arguments);
  find_positions(arguments, piece, offset);
  read_queries<T, HEADS>(arguments, piece, query);
  __syncthreads();
  find_scores<T, N, HEADS>(arguments, piece, offset, query, score);
  __syncthreads();
  weigh<HEADS>(partials, arguments, piece, score);
  __syncthreads();
  add_values<T, N, HEADS>(partials, arguments, piece, offset, score, of_warp);
}

template <class T>
__global__ void __launch_bounds__(JOIN_THREADS) paged_attention_join(PagedAttention arguments) {
  const int64_t row = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x, token = row / arguments.heads;
  if (token >= arguments.tokens) return;
  const Partials partials(arguments);
  const int64_t pieces = (arguments.lengths[token] + PIECE - 1) / PIECE;
  float maximum = -INFINITY, sum = 0.0f;
  for (int64_t p = 0; p < pieces; ++p) maximum = fmaxf(maximum, partials.statistic(row, p)->x);
  const float shift = shift_of(maximum);
  for (int64_t p = 0; p < pieces; ++p) {
    const float2 statistic = *partials.statistic(row, p);
    sum = fmaf(expf(statistic.x - shift), statistic.y, sum);
  }
  for (int k = threadIdx.x; k < arguments.head_size; k += blockDim.x) {
    float total = 0.0f;
#pragma unroll 4
    for (int64_t p = 0; p < pieces; ++p) {
      total = fmaf(expf(partials.statistic(row, p)->x - shift), partials.value(row, p)[k], total);
    }
    static_cast<T*>(arguments.y)[row * arguments.head_size + k] = Convert<T>::narrow(total / sum);
  }
}

template <class T, int N, int HEADS>
void launch_pieces(const PagedAttention& arguments, void* stream) {
  const int64_t chunks = ceiling_divide(arguments.heads / arguments.groups, HEADS);
  const dim3 grid(arguments.tokens * arguments.groups * chunks, pieces_of_table(arguments));
  launch(paged_attention_piece<T, N, HEADS>, grid, dim3(PIECE_THREADS), stream, arguments);
}

template <class T, int N>
void launch_both(const PagedAttention& arguments, void* stream) {
  constexpr int HEADS_ALONE = N == 1 ? 4 : 1;  // single elements are slow in any case: save a kernel
  arguments.heads == arguments.groups ? launch_pieces<T, N, HEADS_ALONE>(arguments, stream)
                                      : launch_pieces<T, N, 4>(arguments, stream);
  const dim3 block(threads_for(arguments.head_size, 1, JOIN_THREADS));
  launch(paged_attention_join<T>, grid_of_rows(arguments.tokens * arguments.heads), block, stream, arguments);
}

int64_t paged_attention_workspace(const PagedAttention& arguments) {
  return arguments.tokens * arguments.heads * pieces_of_table(arguments) * (arguments.head_size + 2);
}

int32_t paged_attention(const PagedAttention& arguments, Element element, void* stream) {
  if (arguments.head_size > LARGEST_HEAD) return UNSUPPORTED;
  return for_element(element, arguments.tokens > 0 && arguments.head_size > 0, [&](auto type) {
    using T = typename decltype(type)::Type;
    const bool fits = vectors_fit<T>(arguments.head_size, {arguments.keys, arguments.values});
    fits ? launch_both<T, FULL<T>>(arguments, stream) : launch_both<T, 1>(arguments, stream);
  });
}

}  // namespace megaphi::cuda
