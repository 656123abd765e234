// Sample number -> (source, rank within the source), in the two forms that data/order/blend.py defines: a table of one
// period (or one run) of a Pfair schedule, and a tree that splits counts exactly. Fractions, quotas and the shape of
// the tree come from Python, which has exact numbers of any size; the schedule's slots are computed here, with
// remainders of any length, because a table has up to 2^20 of them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace megaphi::index {

class Blend {
 public:
  virtual ~Blend() = default;

  int64_t limit() const { return limit_; }
  int64_t sources() const { return sources_; }

  // Numbers in any order, repeats allowed.
  void locate(const int64_t* numbers, int64_t count, int64_t* source, int64_t* rank) const {
    for (int64_t i = 0; i < count; i++) {
      if (numbers[i] < 0 || numbers[i] >= limit_) {
        throw std::out_of_range("sample number " + std::to_string(numbers[i]) + " is outside this blend of " +
                                std::to_string(limit_) + " samples");
      }
    }
    locate_checked(numbers, count, source, rank);
  }

  // Samples of each source among the first `samples`, 0 <= samples <= limit.
  virtual std::vector<int64_t> counts(int64_t samples) const = 0;

 protected:
  Blend(int64_t sources, int64_t limit) : sources_(sources), limit_(limit) {}

  virtual void locate_checked(const int64_t* numbers, int64_t count, int64_t* source, int64_t* rank) const = 0;

 private:
  int64_t sources_;
  int64_t limit_;
};

// Long numbers, as little-endian words of one length.
inline bool is_less(const std::vector<uint64_t>& one, const std::vector<uint64_t>& other) {
  for (size_t i = one.size(); i-- > 0;) {
    if (one[i] != other[i]) return one[i] < other[i];
  }
  return false;
}

// The slots that the samples of one source may take: sample j those from floor(j / share) to ceil((j + 1) / share) - 1.
// 1 / share = whole + remainder / numerator, with the two as little-endian words of one length.
class SampleWindows {
 public:
  static constexpr int64_t FARTHEST_DEADLINE = int64_t{1} << 40;

  SampleWindows(int64_t whole, std::vector<uint64_t> remainder, std::vector<uint64_t> numerator)
      : whole_(whole), remainder_(std::move(remainder)), numerator_(std::move(numerator)), rest_(numerator_.size()) {}

  int64_t first_slot() const { return first_slot_; }

  // Step to the next sample; returns where the window of the one before ends.
  int64_t advance() {
    uint64_t carry = 0, any = 0;
    for (size_t i = 0; i < rest_.size(); i++) {
      const unsigned __int128 sum = static_cast<unsigned __int128>(rest_[i]) + remainder_[i] + carry;
      rest_[i] = static_cast<uint64_t>(sum);
      carry = static_cast<uint64_t>(sum >> 64);
    }
    first_slot_ += whole_;
    if (carry || !is_less(rest_, numerator_)) {
      subtract_numerator();
      first_slot_++;
    }
    for (const uint64_t word : rest_) any |= word;
    return std::min(first_slot_ + (any != 0), FARTHEST_DEADLINE);
  }

 private:
  void subtract_numerator() {
    uint64_t borrow = 0;
    for (size_t i = 0; i < rest_.size(); i++) {
      const unsigned __int128 difference = static_cast<unsigned __int128>(rest_[i]) - numerator_[i] - borrow;
      rest_[i] = static_cast<uint64_t>(difference);
      borrow = static_cast<uint64_t>(difference >> 64) & 1;
    }
  }

  int64_t whole_;
  std::vector<uint64_t> remainder_, numerator_, rest_;
  int64_t first_slot_ = 0;
};

constexpr int SOURCE_BITS = 20;  // of a number that holds a deadline, of 40 bits, and a source

struct Slot {
  uint32_t source;
  uint32_t rank;
};

// The least of one number per source, kept in a tree of minima: no branch for the processor to mispredict.
class Tournament {
 public:
  static constexpr int64_t NOBODY = INT64_MAX;

  explicit Tournament(size_t sources) {
    while (leaves_ < sources) leaves_ *= 2;
    least_.assign(2 * leaves_, NOBODY);
  }

  void enter(size_t source, int64_t number) {
    size_t node = leaves_ + source;
    for (least_[node] = number; node > 1; node /= 2) {
      number = std::min(number, least_[node ^ 1]);
      least_[node / 2] = number;
    }
  }

  int64_t least() const { return least_[1]; }

 private:
  size_t leaves_ = 1;
  std::vector<int64_t> least_;
};

// Serve, slot by slot, the earliest deadline among the samples whose window has begun (ties: the lower source). Of a
// source only the next sample counts, as its deadlines increase.
inline std::vector<Slot> earliest_deadline_first(std::vector<SampleWindows> sources, int64_t slots) {
  constexpr int32_t NONE = -1;
  std::vector<Slot> schedule(slots);
  std::vector<uint32_t> ranks(sources.size());
  std::vector<int32_t> first_of_slot(slots, NONE), following(sources.size(), NONE);  // lists: sources by first slot
  Tournament waiting(sources.size());
  // Deadline and source in one number: the smaller, the more urgent.
  const auto enter = [&](int32_t source) { waiting.enter(source, sources[source].advance() << SOURCE_BITS | source); };
  for (size_t source = 0; source < sources.size(); source++) enter(static_cast<int32_t>(source));
  for (int64_t slot = 0; slot < slots; slot++) {
    for (int32_t source = first_of_slot[slot]; source != NONE; source = following[source]) enter(source);
    if (waiting.least() == Tournament::NOBODY) throw std::invalid_argument("a blend's shares sum to less than one");
    const auto served = static_cast<int32_t>(waiting.least() & ((1 << SOURCE_BITS) - 1));
    schedule[slot] = {static_cast<uint32_t>(served), ranks[served]++};
    const int64_t next = sources[served].first_slot();
    if (next <= slot + 1) {
      enter(served);
    } else {
      waiting.enter(served, Tournament::NOBODY);
      if (next >= slots) continue;
      following[served] = first_of_slot[next];
      first_of_slot[next] = served;
    }
  }
  return schedule;
}

class TableBlend : public Blend {
 public:
  TableBlend(std::vector<SampleWindows> sources, int64_t slots, bool repeats)
      : Blend(static_cast<int64_t>(sources.size()), repeats ? int64_t{1} << 62 : slots),
        period_(slots),
        counts_(sources.size()),
        slots_(earliest_deadline_first(std::move(sources), slots)) {
    for (const Slot& slot : slots_) counts_[slot.source]++;
  }

  std::vector<int64_t> counts(int64_t samples) const override {
    std::vector<int64_t> counts(counts_.size());
    for (size_t i = 0; i < counts.size(); i++) counts[i] = samples / period_ * counts_[i];
    for (int64_t slot = 0; slot < samples % period_; slot++) counts[slots_[slot].source]++;
    return counts;
  }

 protected:
  void locate_checked(const int64_t* numbers, int64_t count, int64_t* source, int64_t* rank) const override {
    for (int64_t i = 0; i < count; i++) {
      const Slot slot = slots_[numbers[i] % period_];
      source[i] = slot.source;
      rank[i] = numbers[i] / period_ * counts_[slot.source] + slot.rank;
    }
  }

 private:
  int64_t period_;
  std::vector<int64_t> counts_;
  std::vector<Slot> slots_;
};

// Of a node's first m samples, left(m) = floor((fraction m + 2^63) / 2^64) go to its left child.
struct TreeNode {
  uint64_t fraction;
  int32_t left;  // a node, or ~source
  int32_t right;

  int64_t left_of(int64_t samples) const {
    const unsigned __int128 product = static_cast<unsigned __int128>(fraction) * static_cast<uint64_t>(samples);
    return static_cast<int64_t>((product + (uint64_t{1} << 63)) >> 64);
  }
};

class TreeBlend : public Blend {
 public:
  // A node's children come before it, and nothing is a child twice: every path ends, and no two meet.
  TreeBlend(int32_t root, std::vector<TreeNode> nodes, int64_t sources, int64_t limit)
      : Blend(sources, limit), root_(root), nodes_(std::move(nodes)) {
    if (sources < 1 || sources > int64_t{1} << SOURCE_BITS) {
      throw std::invalid_argument("a blend's tree has 1 .. 2^20 sources");
    }
    std::vector<bool> is_used(nodes_.size() + sources);
    const auto check = [&](int32_t child, int64_t nodes_before) {
      if (child >= nodes_before || child < -sources || is_used[child + sources]) {
        throw std::invalid_argument("a blend's tree is not a tree");
      }
      is_used[child + sources] = true;
    };
    check(root, static_cast<int64_t>(nodes_.size()));
    for (size_t i = 0; i < nodes_.size(); i++) {
      check(nodes_[i].left, static_cast<int64_t>(i));
      check(nodes_[i].right, static_cast<int64_t>(i));
    }
  }

  std::vector<int64_t> counts(int64_t samples) const override {
    std::vector<int64_t> counts(sources());
    std::vector<std::pair<int32_t, int64_t>> waiting{{root_, samples}};
    while (!waiting.empty()) {
      const auto [node, here] = waiting.back();
      waiting.pop_back();
      if (node < 0) {
        counts[~node] = here;
        continue;
      }
      const int64_t left = nodes_[node].left_of(here);
      waiting.emplace_back(nodes_[node].left, left);
      waiting.emplace_back(nodes_[node].right, here - left);
    }
    return counts;
  }

 protected:
  void locate_checked(const int64_t* numbers, int64_t count, int64_t* source, int64_t* rank) const override {
    for (int64_t i = 0; i < count; i++) {
      int32_t node = root_;
      int64_t here = numbers[i];
      while (node >= 0) {
        const TreeNode& split = nodes_[node];
        const int64_t before = split.left_of(here);
        const bool goes_left = split.left_of(here + 1) > before;
        here = goes_left ? before : here - before;
        node = goes_left ? split.left : split.right;
      }
      source[i] = ~node;
      rank[i] = here;
    }
  }

 private:
  int32_t root_;
  std::vector<TreeNode> nodes_;
};

}  // namespace megaphi::index
