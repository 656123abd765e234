// Sample numbers -> where their tokens begin, as megaphi/data/order/sample_order.py defines it: blend, epoch, shuffled
// block, part of the block, phase of the epoch's grid. A batch is looked up source by source and epoch by epoch, so
// keys and shuffles are made once for each and nothing is kept between calls: threads may share an order.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "blend.h"
#include "permutation.h"

namespace megaphi::index {

struct SourceGrid {
  uint64_t key;  // of (seed, split, name)
  int64_t tokens;
  int64_t block_tokens;  // the unit that is shuffled: a whole number of samples
  int64_t first_sample;  // samples of this source that were taken before, in its epoch `first_epoch`
  int64_t first_epoch;
};

// One value of each per sample of a batch.
struct Places {
  int64_t* source;
  int64_t* epoch;
  int64_t* window;
  int64_t* start_token;
};

class Order {
 public:
  Order(std::shared_ptr<const Blend> blend, std::vector<SourceGrid> grids, int64_t sequence_length)
      : blend_(std::move(blend)), grids_(std::move(grids)), sequence_length_(sequence_length) {
    if (static_cast<int64_t>(grids_.size()) != blend_->sources()) {
      throw std::invalid_argument("an order needs as many grids as its blend has sources");
    }
    for (const SourceGrid& grid : grids_) check(grid);
  }

  void locate(const int64_t* numbers, int64_t count, const Places& places) const {
    blend_->locate(numbers, count, places.source, places.window);
    const std::vector<int64_t> ends = end_of_each_source(places.source, count);
    std::vector<int64_t> members(count), filled(ends.size());
    for (size_t source = 1; source < ends.size(); source++) filled[source] = ends[source - 1];
    for (int64_t i = 0; i < count; i++) {
      const int64_t source = places.source[i], samples = samples_per_epoch(grids_[source]);
      const int64_t taken = grids_[source].first_sample + places.window[i];
      places.epoch[i] = grids_[source].first_epoch + taken / samples;
      places.window[i] = taken % samples;  // for now the position in the epoch, before the shuffle
      members[filled[source]++] = i;
    }
    for (size_t source = 0; source < ends.size(); source++) {
      const int64_t begin = source == 0 ? 0 : ends[source - 1];
      locate_in_source(grids_[source], members.data() + begin, members.data() + ends[source], places);
    }
  }

 private:
  void check(const SourceGrid& grid) const {
    const auto is_in = [](int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; };
    const int64_t most = int64_t{1} << 32, farthest = int64_t{1} << 61;
    if (!is_in(sequence_length_, 1, most) || !is_in(grid.block_tokens, 1, most) ||
        grid.block_tokens % sequence_length_ || !is_in(grid.tokens, grid.block_tokens, int64_t{1} << 62) ||
        !is_in(grid.first_sample, 0, farthest) || !is_in(grid.first_epoch, 0, farthest)) {
      throw std::invalid_argument("a source's tokens, block, first sample or first epoch is out of range");
    }
  }

  int64_t samples_per_epoch(const SourceGrid& grid) const {
    return grid.tokens / grid.block_tokens * (grid.block_tokens / sequence_length_);
  }

  std::vector<int64_t> end_of_each_source(const int64_t* source, int64_t count) const {
    std::vector<int64_t> ends(grids_.size());
    for (int64_t i = 0; i < count; i++) ends[source[i]]++;
    for (size_t i = 1; i < ends.size(); i++) ends[i] += ends[i - 1];
    return ends;
  }

  void locate_in_source(const SourceGrid& grid, int64_t* begin, int64_t* end, const Places& places) const {
    const auto is_earlier = [&](int64_t one, int64_t other) { return places.epoch[one] < places.epoch[other]; };
    if (!std::is_sorted(begin, end, is_earlier)) std::stable_sort(begin, end, is_earlier);
    while (begin < end) {
      const int64_t epoch = places.epoch[*begin];
      int64_t* const next = std::find_if(begin, end, [&](int64_t i) { return places.epoch[i] != epoch; });
      locate_in_epoch(grid, epoch, begin, next, places);
      begin = next;
    }
  }

  void locate_in_epoch(const SourceGrid& grid, int64_t epoch, const int64_t* begin, const int64_t* end,
                       const Places& places) const {
    const uint64_t key = absorb_number(grid.key, epoch);
    const Permutation shuffle(grid.tokens / grid.block_tokens, absorb_text(key, "windows", 7));
    const auto phase = static_cast<int64_t>(Words(absorb_text(key, "phase", 5)).below(grid.block_tokens));
    const int64_t parts = grid.block_tokens / sequence_length_;
    for (const int64_t* member = begin; member < end; member++) {
      int64_t& window = places.window[*member];
      window = static_cast<int64_t>(shuffle.item_at(window / parts)) * parts + window % parts;
      const int64_t start = phase + window * sequence_length_;  // at most a block beyond the end of the ring
      places.start_token[*member] = start < grid.tokens ? start : start - grid.tokens;
    }
  }

  std::shared_ptr<const Blend> blend_;
  std::vector<SourceGrid> grids_;
  int64_t sequence_length_;
};

}  // namespace megaphi::index
