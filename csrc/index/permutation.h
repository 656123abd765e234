// The keyed shuffle of data/order/permutation.py, whose docstrings define every bit of it: the words of a key, unbiased
// draws, and the bijection on [0, size), an exact Fisher-Yates table up to 4,096 items and a Feistel network above.
// Nothing here can be changed without a new ORDER_VERSION: every run ever started depends on these bits.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace megaphi::index {

constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15;

inline uint64_t mix(uint64_t word) {
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EB;
  return word ^ (word >> 31);
}

inline uint64_t absorb(uint64_t state, uint64_t word) { return mix((state ^ word) + GOLDEN); }

// A key is a left fold over its parts, so the key of (seed, split, name) can be extended by further parts.
inline uint64_t absorb_number(uint64_t key, uint64_t number) { return absorb(absorb(key, 1), number); }

inline uint64_t absorb_text(uint64_t key, const char* text, uint64_t length) {  // at most eight bytes
  uint64_t word = 0;
  for (uint64_t i = 0; i < length; i++) word |= static_cast<uint64_t>(static_cast<unsigned char>(text[i])) << (8 * i);
  return absorb(absorb(absorb(key, 2), length), word);
}

class Words {
 public:
  explicit Words(uint64_t key, uint64_t size = 0) : state_(absorb(absorb(0, key), size)) {}

  uint64_t next() { return mix(state_ += GOLDEN); }

  uint64_t below(uint64_t bound) {  // 1 <= bound <= 2^32
    const uint64_t rejected = (uint64_t{1} << 32) % bound;
    while (true) {
      const uint64_t product = (next() >> 32) * bound;
      if ((product & 0xFFFFFFFF) >= rejected) return product >> 32;
    }
  }

 private:
  uint64_t state_;
};

inline uint64_t ceil_of_square_root(uint64_t number) {  // number < 2^63
  auto root = static_cast<uint64_t>(std::sqrt(static_cast<double>(number)));
  while (root * root >= number && root > 0) root--;
  while (root * root < number) root++;
  return root;
}

// Immutable, so threads may share it; 1 <= size <= 2^62, and arguments must be in [0, size).
class Permutation {
 public:
  static constexpr uint64_t LARGEST_TABLE = 4096;
  static constexpr int ROUNDS = 8;

  Permutation(uint64_t size, uint64_t key) : size_(size) {
    Words words(key, size);
    if (size <= LARGEST_TABLE) {
      table_.resize(size);
      std::iota(table_.begin(), table_.end(), uint16_t{0});
      for (uint64_t i = size - 1; i > 0; i--) std::swap(table_[i], table_[words.below(i + 1)]);
    } else {
      rows_ = ceil_of_square_root(size);
      columns_ = (size + rows_ - 1) / rows_;
      for (uint64_t& word : round_keys_) word = words.next();
    }
  }

  uint64_t size() const { return size_; }

  uint64_t item_at(uint64_t position) const {
    return table_.empty() ? walk(position, [this](uint64_t& left, uint64_t& right) { forward(left, right); })
                          : table_[position];
  }

  void items_at(const int64_t* positions, int64_t count, uint64_t* items) const {
    for (int64_t i = 0; i < count; i++) items[i] = item_at(positions[i]);
  }

  void positions_of(const int64_t* items, int64_t count, uint64_t* positions) const {
    std::vector<uint16_t> inverse(table_.size());
    for (size_t i = 0; i < table_.size(); i++) inverse[table_[i]] = static_cast<uint16_t>(i);
    const auto back = [this](uint64_t& left, uint64_t& right) { backward(left, right); };
    for (int64_t i = 0; i < count; i++) positions[i] = inverse.empty() ? walk(items[i], back) : inverse[items[i]];
  }

 private:
  template <class Rounds>
  uint64_t walk(uint64_t value, Rounds rounds) const {
    uint64_t left = value / columns_, right = value % columns_;
    do {
      rounds(left, right);
      value = left * columns_ + right;
    } while (value >= size_);
    return value;
  }

  void forward(uint64_t& left, uint64_t& right) const {
    for (int i = 0; i < ROUNDS; i += 2) {
      left = add_modulo(left, feistel(right, round_keys_[i], rows_), rows_);
      right = add_modulo(right, feistel(left, round_keys_[i + 1], columns_), columns_);
    }
  }

  void backward(uint64_t& left, uint64_t& right) const {
    for (int i = ROUNDS - 2; i >= 0; i -= 2) {
      right = subtract_modulo(right, feistel(left, round_keys_[i + 1], columns_), columns_);
      left = subtract_modulo(left, feistel(right, round_keys_[i], rows_), rows_);
    }
  }

  static uint64_t feistel(uint64_t half, uint64_t key, uint64_t modulus) {
    uint64_t mixed = (half + key) * GOLDEN;
    mixed = (mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93;
    return ((mixed >> 32) * modulus) >> 32;
  }

  // Below the modulus, the subtraction wraps around to a huge number: the smaller of the two is the residue.
  static uint64_t add_modulo(uint64_t x, uint64_t y, uint64_t modulus) { return std::min(x + y, x + y - modulus); }
  static uint64_t subtract_modulo(uint64_t x, uint64_t y, uint64_t modulus) { return std::min(x - y, x - y + modulus); }

  uint64_t size_;
  uint64_t rows_ = 1;
  uint64_t columns_ = 1;
  uint64_t round_keys_[ROUNDS] = {};
  std::vector<uint16_t> table_;  // empty where the network is used
};

}  // namespace megaphi::index
