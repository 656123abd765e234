// The order in which Megatron-Core's GPTDataset and BlendedDataset visit a corpus, written from what they compute. In
// this order: NumPy's RandomState.shuffle, with the same draws; the start of every sample in the shuffled documents;
// the dataset of sample n; and the stretches of the .bin that make up a sample. Every count is 64-bit; only stored
// values are as narrow as the caller chose. The arrays of an .idx are unaligned, so they are read byte by byte.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

namespace megaphi::megatron_order {

// An array at an unaligned address.
template <class T>
struct Unaligned {
  const void* first;
  int64_t size;

  const unsigned char* at(int64_t i) const { return static_cast<const unsigned char*>(first) + i * sizeof(T); }
  T operator[](int64_t i) const {
    T value;
    std::memcpy(&value, at(i), sizeof(T));
    return value;
  }
};

// The part of numpy.random.RandomState(seed) that shuffling needs: std::mt19937 is the same generator, seeded alike.
class NumpyShuffle {
 public:
  explicit NumpyShuffle(uint32_t seed) : words(seed) {}

  // Shuffles `count` items of `bytes` each. The draws do not depend on the items, so they are made a block ahead, and
  // the memory that they refer to is prefetched.
  template <size_t bytes>
  void shuffle(void* items, int64_t count) {
    auto* first = static_cast<unsigned char*>(items);
    std::array<int64_t, 128> others;
    for (int64_t last = count - 1; last > 0;) {
      const int64_t block = std::min<int64_t>(others.size(), last);
      for (int64_t i = 0; i < block; i++) {
        others[i] = up_to(last - i);
        __builtin_prefetch(first + others[i] * bytes, 1);
      }
      for (int64_t i = 0; i < block; i++, last--) swap<bytes>(first + last * bytes, first + others[i] * bytes);
    }
  }

  // A number in [0, highest]: the lowest bits of a word, drawn again while they are too large.
  int64_t up_to(int64_t highest) {
    uint64_t mask = highest;
    for (int shift = 1; shift < 64; shift *= 2) mask |= mask >> shift;
    uint64_t drawn;
    do {
      drawn = (mask >> 32 ? word64() : words()) & mask;
    } while (drawn > static_cast<uint64_t>(highest));
    return drawn;
  }

 private:
  uint64_t word64() {
    const uint64_t high = words();
    return high << 32 | words();
  }

  template <size_t bytes>
  static void swap(unsigned char* one, unsigned char* other) {
    unsigned char held[bytes], moved[bytes];
    std::memcpy(held, one, bytes);
    std::memcpy(moved, other, bytes);
    std::memcpy(one, moved, bytes);
    std::memcpy(other, held, bytes);
  }

  std::mt19937 words;
};

// Sample k starts at token k * sequence_length of the documents laid end to end in their shuffled order (it shares its
// first token with the end of sample k - 1). starts[2 k], starts[2 k + 1]: the entry of `documents` that holds that
// token, and the token's place in it. Sample 0 starts at (0, 0) even where document 0 is empty.
template <class Document, class Place>
void find_sample_starts(Unaligned<int32_t> lengths, const Document* documents, int64_t entries, int64_t sequence_length,
                        Place* starts, int64_t samples) {
  constexpr int64_t ahead = 16;
  if (samples > 0) starts[0] = starts[1] = 0;
  int64_t found = 1, wanted = sequence_length;  // in tokens since the start of the current document
  for (int64_t entry = 0; entry < entries && found < samples; entry++) {
    if (entry + ahead < entries) __builtin_prefetch(lengths.at(documents[entry + ahead]));
    if (documents[entry] < 0 || documents[entry] >= lengths.size) throw std::out_of_range("a document is not indexed");
    const int64_t length = lengths[documents[entry]];
    if (length < 0) throw std::invalid_argument("a document has a negative length");
    for (; wanted < length && found < samples; wanted += sequence_length, found++) {
      starts[2 * found] = static_cast<Place>(entry);
      starts[2 * found + 1] = static_cast<Place>(wanted);
    }
    wanted -= length;
  }
  if (found < samples) throw std::out_of_range("the documents end before the samples do");
}

// Datasets that still give samples, each with its share. Sample n goes to the dataset that is furthest behind
// share * max(n, 1), the first among equals. Counts are kept as doubles: exact up to 2^53, and ready to subtract.
// Product and difference are rounded as in Megatron's own build: each by itself on x86, elsewhere as compilers like it.
struct Shares {
  std::vector<int64_t> dataset;
  std::vector<double> share, taken;

  explicit Shares(std::vector<double> shares)
      : dataset(shares.size()), share(std::move(shares)), taken(share.size()) {
    std::iota(dataset.begin(), dataset.end(), 0);
  }

  int64_t furthest_behind(int64_t sample) const {
    const double number = static_cast<double>(std::max<int64_t>(sample, 1));
    const int64_t count = dataset.size();
    const double *shares = share.data(), *counts = taken.data();
    double furthest = shares[0] * number - counts[0];
    int64_t place = 0;
    for (int64_t i = 1; i < count; i++) {
      const double behind = shares[i] * number - counts[i];
      if (behind > furthest) furthest = behind, place = i;
    }
    return place;
  }

  void leave_out(int64_t place) {
    dataset.erase(dataset.begin() + place);
    share.erase(share.begin() + place);
    taken.erase(taken.begin() + place);
  }
};

// Deals `samples` samples to datasets in proportion to shares that sum to one: the dataset of each, and the number of
// that dataset's samples before it. Returns the number of samples of each dataset.
template <class Rank>
std::vector<int64_t> blend(std::vector<double> weights, int16_t* datasets, Rank* ranks, int64_t samples) {
  Shares shares(std::move(weights));
  for (int64_t sample = 0; sample < samples; sample++) {
    const int64_t chosen = shares.furthest_behind(sample);
    datasets[sample] = static_cast<int16_t>(chosen);
    ranks[sample] = static_cast<Rank>(shares.taken[chosen]++);
  }
  return {shares.taken.begin(), shares.taken.end()};
}

// The same until every dataset i has given exactly sizes[i] > 0 samples; a dataset that has is left out.
template <class Rank>
void blend_all(const std::vector<int64_t>& sizes, int16_t* datasets, Rank* ranks) {
  const auto total = static_cast<double>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
  std::vector<double> weights;
  for (const int64_t size : sizes) weights.push_back(size / total);
  Shares shares(std::move(weights));
  for (int64_t sample = 0; !shares.dataset.empty(); sample++) {
    const int64_t place = shares.furthest_behind(sample), chosen = shares.dataset[place];
    datasets[sample] = static_cast<int16_t>(chosen);
    ranks[sample] = static_cast<Rank>(shares.taken[place]++);
    if (shares.taken[place] == static_cast<double>(sizes[chosen])) shares.leave_out(place);
  }
}

// Stretches of a .bin, in tokens, and the row of a batch that each belongs to.
struct Stretches {
  std::vector<int64_t> row, start, count;
};

// The `tokens` tokens of each of `rows` samples: from its start (starts[2 row], starts[2 row + 1]) on through the
// shuffled documents; empty ones leave no stretch. `pointers` are the byte offsets of documents in the .bin.
template <class Document>
Stretches find_stretches(Unaligned<int32_t> lengths, Unaligned<int64_t> pointers, int64_t token_bytes,
                         const Document* documents, int64_t entries, const int64_t* starts, int64_t rows,
                         int64_t tokens) {
  Stretches found;
  for (int64_t row = 0; row < rows; row++) {
    int64_t entry = starts[2 * row], offset = starts[2 * row + 1];
    for (int64_t missing = tokens; missing > 0; entry++, offset = 0) {
      if (entry < 0 || entry >= entries) throw std::out_of_range("the documents end before the sample does");
      const int64_t document = documents[entry];
      if (document < 0 || document >= lengths.size) throw std::out_of_range("a document is not indexed");
      const int64_t count = std::min(lengths[document] - offset, missing);
      if (count <= 0) continue;
      found.row.push_back(row);
      found.start.push_back(pointers[document] / token_bytes + offset);
      found.count.push_back(count);
      missing -= count;
    }
  }
  return found;
}

}  // namespace megaphi::megatron_order
