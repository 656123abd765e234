// Runs of words by their hashes, and the items that have each. Nearly all runs of a text are known to no item: a
// filter of 16 bits a run, two of which are set for each in one word of memory, turns away all but one or two in a
// hundred, and is small enough for the second cache. What passes is looked up in a table of open addressing.
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace megaphi::text {

// Smallest b with 2^b >= count.
inline int bits_for(size_t count) {
  int bits = 0;
  while ((size_t{1} << bits) < count) ++bits;
  return bits;
}

class RunTable {
 public:
  using Pair = std::pair<uint64_t, int32_t>;  // hash of a run, item that has it

  RunTable() : RunTable(std::vector<Pair>{}) {}
  explicit RunTable(std::vector<Pair> pairs) {
    std::sort(pairs.begin(), pairs.end());
    pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
    std::vector<uint64_t> hashes;
    for (const auto& [hash, item] : pairs) {
      if (hashes.empty() || hashes.back() != hash) {
        hashes.push_back(hash);
        first_.push_back(items_.size());
      }
      items_.push_back(item);
    }
    first_.push_back(items_.size());
    const int filter_bits = std::max(6, bits_for(hashes.size() / 4));  // words of 64 bits, for 16 bits a run
    const int slot_bits = std::max(4, bits_for(hashes.size() * 2));
    filter_shift_ = 64 - filter_bits;
    slot_shift_ = 64 - slot_bits;
    filter_.resize(size_t{1} << filter_bits);
    slots_.resize(size_t{1} << slot_bits, Slot{0, EMPTY});
    for (size_t run = 0; run < hashes.size(); ++run) {
      filter_[hashes[run] >> filter_shift_] |= bits_of(hashes[run]);
      size_t slot = hashes[run] >> slot_shift_;
      while (slots_[slot].run != EMPTY) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = {hashes[run], static_cast<int64_t>(run)};
    }
  }

  // Number of the run with this hash, or -1.
  int64_t find(uint64_t hash) const {
    const uint64_t bits = bits_of(hash);
    if ((filter_[hash >> filter_shift_] & bits) != bits) return EMPTY;
    for (size_t slot = hash >> slot_shift_;; slot = (slot + 1) & (slots_.size() - 1))
      if (slots_[slot].run == EMPTY || slots_[slot].hash == hash) return slots_[slot].run;
  }
  const int32_t* items_begin(int64_t run) const { return items_.data() + first_[run]; }
  const int32_t* items_end(int64_t run) const { return items_.data() + first_[run + 1]; }
  const std::vector<int32_t>& items() const { return items_; }  // an item as often as it has different runs

 private:
  static constexpr int64_t EMPTY = -1;
  struct Slot {
    uint64_t hash;
    int64_t run;
  };
  static uint64_t bits_of(uint64_t hash) { return uint64_t{1} << (hash & 63) | uint64_t{1} << (hash >> 6 & 63); }

  int filter_shift_ = 0, slot_shift_ = 0;
  std::vector<uint64_t> filter_;
  std::vector<Slot> slots_;
  std::vector<size_t> first_;
  std::vector<int32_t> items_;
};

}  // namespace megaphi::text
