// Which sequence of a dataset holds a token, and where documents begin inside windows: from the pointers of the .idx.
// The arrays follow a header of 34 bytes, so nothing in them is aligned: every load is a copy. They are memory maps of
// files that may be corrupted: an index is used only after it was compared with the size of its array, and pointers
// that do not ascend end the walk. Pointers are byte offsets of sequences in the .bin; an empty sequence repeats the
// pointer of the next. Documents are the first sequences of each, usually 0, 1, 2, ..: one sequence per document.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

namespace megaphi {

// int64 numbers in memory that may be unaligned.
struct Numbers {
  const char* data;
  int64_t size;
  int64_t operator[](int64_t index) const {
    int64_t value;
    std::memcpy(&value, data + 8 * index, 8);
    return value;
  }
};

// The next probe, chosen so that few pages of a cold file are touched: lengths of documents vary, so the guess from a
// distance of d sequences is off by about sqrt(d). Probing that much beyond it closes the range from the other side.
struct Guess {
  int64_t low, high;              // the answer is in [low, high)
  double value_low, value_high;   // pointers of the two
  bool raised_low = false;        // which side the last probe moved

  int64_t interpolated(double target) const {
    const double share = (target - value_low) / (value_high - value_low);
    double place = static_cast<double>(low) + share * static_cast<double>(high - low);
    const auto distance = static_cast<double>(raised_low ? place - low : high - place);
    int64_t margin = 16;
    while (static_cast<double>(margin) * margin < 4 * distance) margin *= 2;
    place += static_cast<double>(raised_low ? margin : -margin);
    if (!(place > static_cast<double>(low))) return low + 1;
    return place < static_cast<double>(high - 1) ? static_cast<int64_t>(place) : high - 1;
  }
};

// The largest i with pointers[i] <= target, for ascending pointers with pointers[0] <= target < end: by interpolation,
// and by bisection where that gains too little, so in at most about 3 log2(size) steps whatever the lengths are.
inline int64_t find_sequence(const Numbers& pointers, int64_t end, int64_t target) {
  constexpr int64_t near = 64;
  Guess guess{0, pointers.size, 0.0, static_cast<double>(end)};
  int64_t before = guess.high - guess.low;
  for (int step = 0; guess.high - guess.low > 1; ++step) {
    const int64_t width = guess.high - guess.low;
    const bool slow = step % 3 == 2 && width > before / 2;
    if (step % 3 == 0) before = width;
    const bool halve = width <= near || slow || !(guess.value_high > guess.value_low);
    const int64_t place = halve ? guess.low + width / 2 : guess.interpolated(static_cast<double>(target));
    const int64_t value = pointers[place];
    guess.raised_low = value <= target;
    (guess.raised_low ? guess.low : guess.high) = place;
    (guess.raised_low ? guess.value_low : guess.value_high) = static_cast<double>(value);
  }
  return guess.low;
}

// Whether a document begins with this sequence.
inline bool begins_document(const Numbers& documents, int64_t sequence) {
  if (sequence < documents.size && documents[sequence] == sequence) return true;
  int64_t low = 0, high = documents.size;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (documents[middle] < sequence)
      low = middle + 1;
    else
      high = middle;
  }
  return low < documents.size && documents[low] == sequence;
}

struct Index {
  Numbers pointers, documents;
  int64_t data_bytes, itemsize;
};

// Numbers the documents of one run of tokens [start, start + count) to ids[0 .. count), the first one `number`.
// Returns the number of the last, or -1 - i where the pointers near sequence i do not ascend. 0 < count.
inline int64_t number_documents(const Index& index, int64_t start, int64_t count, int64_t number, int32_t* ids) {
  const int64_t begin = start * index.itemsize, end = begin + count * index.itemsize;
  const int64_t sequences = index.pointers.size;
  int64_t sequence = find_sequence(index.pointers, index.data_bytes, begin);
  const int64_t next = sequence + 1 < sequences ? index.pointers[sequence + 1] : index.data_bytes;
  if (index.pointers[sequence] > begin || next <= begin) return -1 - sequence;
  int64_t filled = 0, previous = begin;
  bool starts = false;
  for (++sequence; sequence < sequences; ++sequence) {
    const int64_t pointer = index.pointers[sequence];
    if (pointer < previous) return -1 - sequence;
    if (pointer >= end) break;
    if (pointer > previous) {  // the sequences in between have tokens
      const int64_t until = (pointer - begin) / index.itemsize;
      std::fill(ids + filled, ids + until, static_cast<int32_t>(number));
      filled = until;
      previous = pointer;
      starts = false;
    }
    if (!starts && begins_document(index.documents, sequence)) {
      starts = true;  // at most one new document per token, however many empty ones begin here too
      ++number;
    }
  }
  std::fill(ids + filled, ids + count, static_cast<int32_t>(number));
  return number;
}

}  // namespace megaphi
