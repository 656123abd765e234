// Clusters of linked members (union-find): every member's parent is a smaller member of its cluster, or itself. A root
// is the smallest member of its cluster, so the result does not depend on the order of the links.
#pragma once
#include <cstdint>

namespace megaphi::text {

inline int64_t root_of(int64_t* parents, int64_t member) {
  while (parents[member] != member) {
    parents[member] = parents[parents[member]];
    member = parents[member];
  }
  return member;
}

inline void link(int64_t* parents, int64_t left, int64_t right) {
  left = root_of(parents, left);
  right = root_of(parents, right);
  if (left < right) parents[right] = left;
  if (right < left) parents[left] = right;
}

}  // namespace megaphi::text
