// MinHash signatures by Fast Similarity Sketching (Dahlgaard, Knudsen, Thorup: FOCS 2017, algorithm 1): each position
// of two signatures agrees with a probability that is the Jaccard similarity of the sets, as with one hash function per
// position, but one hash of each member fills most of it. Members are dealt to positions at random, in rounds, until
// each has one; a position keeps the smallest (round, hash). Round size + i deals all to position i.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "characters.h"

namespace megaphi::text {

// The signature of a set that is not empty, as 32 bits a position.
inline void write_signature(const std::vector<uint64_t>& members, uint32_t size, uint32_t* signature) {
  constexpr uint64_t EMPTY = ~uint64_t{0}, STEP = 0x9E3779B97F4A7C15;
  std::vector<uint64_t> smallest(size, EMPTY);
  for (uint64_t round = 0; round < 2 * uint64_t{size}; ++round) {
    for (const uint64_t member : members) {
      const uint64_t hash = round == 0 ? member : mixed(member + round * STEP);
      const uint64_t position = round < size ? (hash >> 32) * size >> 32 : round - size;
      smallest[position] = std::min(smallest[position], round << 32 | (hash & 0xFFFFFFFF));
    }
    if (std::find(smallest.begin(), smallest.end(), EMPTY) == smallest.end()) break;
  }
  // (round, hash) has more than 32 bits; that it is the same one is what counts.
  for (uint32_t i = 0; i < size; ++i) signature[i] = static_cast<uint32_t>(mixed(smallest[i]));
}

}  // namespace megaphi::text
