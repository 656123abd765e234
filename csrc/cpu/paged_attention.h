// Attention of single queries over a key-value cache in blocks, where groups of query heads share a key. The positions
// of a query are split into pieces of PIECE. Each piece is attended to on its own, and the partial results (largest
// score, sum of exponentials, weighted sum of values) are merged afterwards. So one long query keeps all cores busy,
// and since the split depends on its own length alone, the result of a query does not depend on what else is in the
// call, bit for bit, or on the number of threads. Keys and values are read once, in memory order, TILE positions at a
// time; each serves all heads of its group. A tile's sums stay in registers: the code uses vector types of the compiler
// (an extension of GCC and Clang), because in a loop over lanes it would keep the sums in memory.
#pragma once
#include <cstdlib>

#include "softmax.h"

namespace megaphi::MEGAPHI_INSTRUCTION_SET {

constexpr int64_t PIECE = 128, TILE = 4;

#if defined(__AVX512F__)
constexpr int64_t VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int64_t VECTOR_BYTES = 32;
#else
constexpr int64_t VECTOR_BYTES = 16;
#endif
template <class A>
constexpr int64_t LANES = VECTOR_BYTES / sizeof(A);

template <class A>
struct vector_of {
  typedef A type __attribute__((vector_size(VECTOR_BYTES)));
};
template <class A>
using Vector = typename vector_of<A>::type;

inline Vector<double> load_vector(const double* from) {
  Vector<double> vector;
  __builtin_memcpy(&vector, from, sizeof(vector));
  return vector;
}
inline Vector<float> load_vector(const float* from) {
  Vector<float> vector;
  __builtin_memcpy(&vector, from, sizeof(vector));
  return vector;
}
inline Vector<float> load_vector(const bf16* from) {
  typedef uint16_t Narrow __attribute__((vector_size(VECTOR_BYTES / 2)));
  Narrow narrow;
  __builtin_memcpy(&narrow, from, sizeof(narrow));
  return reinterpret_cast<Vector<float>>(__builtin_convertvector(narrow, Vector<uint32_t>) << 16);
}

template <class A>
void store_vector(A* to, Vector<A> vector) {
  __builtin_memcpy(to, &vector, sizeof(vector));
}

// The first `count` elements, then zeros: nothing beyond the end of a row is read.
template <class T>
Vector<Accumulator<T>> load_first(const T* from, int64_t count) {
  T padded[LANES<Accumulator<T>>] = {};
  __builtin_memcpy(padded, from, count * sizeof(T));
  return load_vector(padded);
}

template <class A>
A sum_of_lanes(Vector<A> vector) {
  A lanes[LANES<A>];
  __builtin_memcpy(lanes, &vector, sizeof(lanes));
  for (int64_t width = LANES<A> / 2; width > 0; width /= 2)
    for (int64_t lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

// Number of whole vectors that hold `size` elements.
template <class A>
int64_t padded_size(int64_t size) {
  return (size + LANES<A> - 1) / LANES<A> * LANES<A>;
}

// scores[r][n] = query r . key n, for R queries of `padded` elements (zeros at their end) and N keys at their offsets.
template <int R, int N, class T>
void dot_products(const Accumulator<T>* queries, const T* keys, const int64_t* offsets, Accumulator<T>* scores,
                  int64_t size) {
  using A = Accumulator<T>;
  const int64_t padded = padded_size<A>(size);
  Vector<A> sums[R][N];
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) sums[r][n] = Vector<A>{};
  const auto add = [&](int64_t k, auto load_key) {
    for (int n = 0; n < N; n++) {
      const Vector<A> key = load_key(keys + offsets[n] + k);
      for (int r = 0; r < R; r++) sums[r][n] += load_vector(queries + r * padded + k) * key;
    }
  };
  int64_t k = 0;
  for (; k + LANES<A> <= size; k += LANES<A>) add(k, [](const T* from) { return load_vector(from); });
  if (k < size) add(k, [=](const T* from) { return load_first(from, size - k); });
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) scores[r * PIECE + n] = sum_of_lanes<A>(sums[r][n]);
}

// sums[r] += weights[r][n] * value n, added up over n.
template <int R, int N, class T>
void add_values(const Accumulator<T>* weights, const T* values, const int64_t* offsets, Accumulator<T>* sums,
                int64_t size) {
  using A = Accumulator<T>;
  const int64_t padded = padded_size<A>(size);
  const auto add = [&](int64_t k, auto load_value) {
    Vector<A> value[N];
    for (int n = 0; n < N; n++) value[n] = load_value(values + offsets[n] + k);
    for (int r = 0; r < R; r++) {
      Vector<A> sum = load_vector(sums + r * padded + k);
      for (int n = 0; n < N; n++) sum += weights[r * PIECE + n] * value[n];
      store_vector<A>(sums + r * padded + k, sum);
    }
  };
  int64_t k = 0;
  for (; k + LANES<A> <= size; k += LANES<A>) add(k, [](const T* from) { return load_vector(from); });
  if (k < size) add(k, [=](const T* from) { return load_first(from, size - k); });
}

template <int N>
struct constant {
  static constexpr int value = N;
};

// Call `tile(R, N, rows, head, n)`, R and N constants, for R heads from `head` on and N positions from `n` on, until a
// piece is covered; `rows` is the heads' group in `cache`. It walks the cache in memory order, all groups of a tile,
// while the next tiles are prefetched: the processor cannot guess where a block is.
template <class T, class Tile>
void for_tiles(const PagedAttention& a, const void* cache, const int64_t* offsets, int64_t count, Tile tile) {
  const int64_t sharing = a.heads / a.groups, row_bytes = a.groups * a.head_size * sizeof(T);
  const auto all_heads = [&](auto N, int64_t n) {
    for (int64_t g = 0; g < a.groups; g++) {
      const T* rows = static_cast<const T*>(cache) + g * a.head_size;
      int64_t head = g * sharing;
      const int64_t end = head + sharing;
      for (; head + TILE <= end; head += TILE) tile(constant<TILE>{}, N, rows, head, n);
      if (end - head == 3) tile(constant<3>{}, N, rows, head, n);
      if (end - head == 2) tile(constant<2>{}, N, rows, head, n);
      if (end - head == 1) tile(constant<1>{}, N, rows, head, n);
    }
  };
  int64_t n = 0;
  for (; n + TILE <= count; n += TILE) {
    for (int64_t next = n + 2 * TILE; next < n + 3 * TILE && next < count; next++) {
      const auto row = reinterpret_cast<const char*>(static_cast<const T*>(cache) + offsets[next]);
      for (int64_t byte = 0; byte < row_bytes; byte += 64) __builtin_prefetch(row + byte);
    }
    all_heads(constant<TILE>{}, n);
  }
  for (; n < count; n++) all_heads(constant<1>{}, n);
}

// Partial result of a piece: for every head the highest score, the sum of exponentials, the weighted sum of values.
template <class A>
struct Partial {
  A *highest, *sum, *values;  // [heads], [heads], [heads, padded]

  Partial(A* memory, int64_t heads) : highest(memory), sum(memory + heads), values(memory + 2 * heads) {}
  static int64_t size(const PagedAttention& a) { return a.heads * (2 + padded_size<A>(a.head_size)); }
};

// Offsets of a piece's positions in keys and values, relative to their group's first element.
inline void find_positions(const PagedAttention& a, int64_t token, int64_t first, int64_t count, int64_t* offsets) {
  const int32_t* table = a.tables + token * a.table_width;
  for (int64_t n = 0; n < count; n++) {
    const int64_t block = table[(first + n) / a.positions], place = (first + n) % a.positions;
    offsets[n] = (block * a.positions + place) * a.groups * a.head_size;
  }
}

// [heads, padded], copied from a view into the packed product.
template <class T, class A>
void copy_queries(const PagedAttention& a, int64_t token, A* queries) {
  const int64_t padded = padded_size<A>(a.head_size);
  for (int64_t h = 0; h < a.heads; h++) {
    const T* from = static_cast<const T*>(a.query) + token * a.query_token + h * a.query_head;
    for (int64_t k = 0; k < padded; k++) queries[h * padded + k] = k < a.head_size ? load(from + k) : A(0);
  }
}

// Turns scores into their exponentials; `row` belongs to one head.
template <class A>
void exponentiate(A* row, int64_t count, A scale, A& highest, A& sum) {
  highest = scaled_scores(row, nullptr, scale, row, count);
  const A shift = shift_of(highest);
#pragma omp simd
  for (int64_t n = 0; n < count; n++) row[n] = exponential(row[n] - shift);
  sum = lane_sum<A>(count, [=](int64_t n) { return row[n]; });
}

// `queries` is [heads, padded], `scores` [heads, PIECE].
template <class T, class A>
void attend_to_piece(const PagedAttention& a, const A* queries, const int64_t* offsets, int64_t count, A* scores,
                     Partial<A> partial) {
  const int64_t padded = padded_size<A>(a.head_size);
  for_tiles<T>(a, a.keys, offsets, count, [&](auto R, auto N, const T* keys, int64_t head, int64_t n) {
    dot_products<R.value, N.value>(queries + head * padded, keys, offsets + n, scores + head * PIECE + n, a.head_size);
  });
  for (int64_t h = 0; h < a.heads; h++)
    exponentiate(scores + h * PIECE, count, static_cast<A>(a.scale), partial.highest[h], partial.sum[h]);
  __builtin_memset(partial.values, 0, a.heads * padded * sizeof(A));
  for_tiles<T>(a, a.values, offsets, count, [&](auto R, auto N, const T* values, int64_t head, int64_t n) {
    add_values<R.value, N.value>(scores + head * PIECE + n, values, offsets + n, partial.values + head * padded,
                                 a.head_size);
  });
}

// Merges the pieces of one head of one query, whose partial results are `step` apart.
template <class T, class A>
void join_pieces(const PagedAttention& a, A* partials, int64_t step, int64_t pieces, int64_t head, A* sums, T* y) {
  const int64_t padded = padded_size<A>(a.head_size);
  A highest = -__builtin_inff(), total = 0;
  for (int64_t p = 0; p < pieces; p++) {
    const A other = Partial<A>(partials + p * step, a.heads).highest[head];
    highest = other > highest ? other : highest;
  }
  __builtin_memset(sums, 0, padded * sizeof(A));
  for (int64_t p = 0; p < pieces; p++) {
    const Partial<A> partial(partials + p * step, a.heads);
    const A weight = exponential(partial.highest[head] - shift_of(highest));
    const A* values = partial.values + head * padded;
    total += weight * partial.sum[head];
#pragma omp simd
    for (int64_t k = 0; k < padded; k++) sums[k] += weight * values[k];
  }
  const A share = A(1) / total;
#pragma omp simd
  for (int64_t k = 0; k < a.head_size; k++) store(y + k, sums[k] * share);
}

template <class T>
void paged_attention(const PagedAttention& a) {
  using A = Accumulator<T>;
  const int64_t padded = padded_size<A>(a.head_size), step = Partial<A>::size(a);
  const auto first = static_cast<int64_t*>(std::malloc((a.tokens + 1) * sizeof(int64_t)));  // piece of every query
  first[0] = 0;
  for (int64_t t = 0; t < a.tokens; t++) first[t + 1] = first[t] + (a.lengths[t] + PIECE - 1) / PIECE;
  const auto partials = static_cast<A*>(std::malloc(first[a.tokens] * step * sizeof(A)));
  parallel_rows(first[a.tokens], PIECE * a.groups * a.head_size, [=, &a](int64_t begin, int64_t end) {
    const auto queries = static_cast<A*>(std::malloc(a.heads * (padded + PIECE) * sizeof(A)));
    int64_t offsets[PIECE], token = 0, copied = -1;
    for (int64_t piece = begin; piece < end; piece++) {
      while (piece >= first[token + 1]) token++;
      if (copied != token) copy_queries<T>(a, copied = token, queries);
      const int64_t from = (piece - first[token]) * PIECE, left = a.lengths[token] - from;
      const int64_t count = left < PIECE ? left : PIECE;
      find_positions(a, token, from, count, offsets);
      const Partial<A> partial(partials + piece * step, a.heads);
      attend_to_piece<T>(a, queries, offsets, count, queries + a.heads * padded, partial);
    }
    std::free(queries);
  });
  const int64_t cheap = first[a.tokens] * step / (16 * (a.tokens + 1));  // an element: a product, no exponential
  parallel_rows(a.tokens, cheap, [=, &a](int64_t begin, int64_t end) {
    const auto sums = static_cast<A*>(std::malloc(padded * sizeof(A)));
    for (int64_t t = begin; t < end; t++) {
      for (int64_t h = 0; h < a.heads; h++)
        join_pieces(a, partials + first[t] * step, step, first[t + 1] - first[t], h, sums,
                    static_cast<T*>(a.y) + (t * a.heads + h) * a.head_size);
    }
    std::free(sums);
  });
  std::free(partials);
  std::free(first);
}

}  // namespace megaphi::MEGAPHI_INSTRUCTION_SET
