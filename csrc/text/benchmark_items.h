// Benchmark items and the texts that share runs of words with them (megaphi/decontamination/rule.py). Short runs are
// counted by their hashes of 64 bits. The long run is looked for only where enough known short ones follow each other,
// as a run of 13 words holds seven of 7; one that is found by its hash is compared letter by letter.
#pragma once
#include <string>
#include <unordered_set>

#include "run_table.h"
#include "words.h"

namespace megaphi::text {

struct SharedRuns {
  int32_t item;
  int64_t shared;   // different short runs that both have
  int64_t smaller;  // different short runs of the one that has fewer
  bool has_exact = false;
  std::u32string exact;  // the first long run of the text that the item has too
};

// Sorts, and leaves each value once.
template <class Value>
void keep_different(std::vector<Value>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

// Number of different runs of `size` words, by a table of open addressing in which 0 is an empty slot.
inline size_t different_runs_of(const std::vector<uint64_t>& words, size_t size) {
  const int bits = std::max(1, bits_for(words.size() * 2));
  std::vector<uint64_t> slots(size_t{1} << bits);
  size_t count = 0;
  each_run(words, size, [&](size_t, uint64_t hash) {
    hash += hash == 0;
    size_t slot = hash >> (64 - bits);
    while (slots[slot] != 0 && slots[slot] != hash) slot = (slot + 1) & (slots.size() - 1);
    count += slots[slot] == 0;
    slots[slot] = hash;
  });
  return count;
}

class BenchmarkItems {
 public:
  // `allowed`: hashes of long runs that prove nothing.
  BenchmarkItems(size_t exact_words, size_t overlap_words, std::unordered_set<uint64_t> allowed)
      : exact_words_(exact_words), overlap_words_(overlap_words), allowed_(std::move(allowed)) {}

  void add(const std::vector<uint64_t>& words, SpelledWords spelled) {
    const auto item = static_cast<int32_t>(spelled_.size());
    each_run(words, exact_words_, [&](size_t, uint64_t hash) {
      if (!allowed_.count(hash)) exact_pairs_.emplace_back(hash, item);
    });
    each_run(words, overlap_words_, [&](size_t, uint64_t hash) { overlap_pairs_.emplace_back(hash, item); });
    spelled_.push_back(std::move(spelled.text) + U' ');
  }

  void finish() {
    exact_ = RunTable(std::move(exact_pairs_));
    overlap_ = RunTable(std::move(overlap_pairs_));
    different_runs_.assign(spelled_.size(), 0);
    for (const int32_t item : overlap_.items()) ++different_runs_[item];
  }

  size_t overlap_words() const { return overlap_words_; }
  // For each item its number of different short runs.
  const std::vector<int64_t>& different_runs() const { return different_runs_; }

  // What a text of these words shares with items, in the order of the items. `spell` gives its SpelledWords; it is
  // called only where a long run is found.
  template <class Spell>
  std::vector<SharedRuns> match(const std::vector<uint64_t>& words, Spell spell) const {
    std::vector<size_t> places;
    std::vector<int64_t> runs;
    each_run(words, overlap_words_, [&](size_t first, uint64_t hash) {
      const int64_t run = overlap_.find(hash);
      if (run < 0) return;
      places.push_back(first);
      runs.push_back(run);
    });
    if (places.empty()) return {};
    std::vector<SharedRuns> found = counted(words, std::move(runs));
    add_exact(words, places, spell, found);
    return found;
  }

  // Calls take(first word) for every long run of a text that some item has and that is not allowed.
  template <class Take>
  void each_exact(const std::vector<uint64_t>& words, Take take) const {
    each_run(words, exact_words_, [&](size_t first, uint64_t hash) {
      if (exact_.find(hash) >= 0) take(first);
    });
  }
  size_t exact_words() const { return exact_words_; }

 private:
  std::vector<SharedRuns> counted(const std::vector<uint64_t>& words, std::vector<int64_t> runs) const {
    const auto own = static_cast<int64_t>(different_runs_of(words, overlap_words_));
    keep_different(runs);
    std::vector<int32_t> items;
    for (const int64_t run : runs) items.insert(items.end(), overlap_.items_begin(run), overlap_.items_end(run));
    std::sort(items.begin(), items.end());
    std::vector<SharedRuns> found;
    for (const int32_t item : items) {
      if (found.empty() || found.back().item != item)
        found.push_back({item, 0, std::min(different_runs_[item], own), false, {}});
      ++found.back().shared;
    }
    return found;
  }

  template <class Spell>
  void add_exact(const std::vector<uint64_t>& words, const std::vector<size_t>& places, Spell spell,
                 std::vector<SharedRuns>& found) const {
    const size_t last = exact_words_ - overlap_words_;
    for (size_t i = 0; i + last < places.size(); ++i) {
      if (places[i + last] - places[i] != last) continue;
      const int64_t run = exact_.find(hash_of_run(words.data() + places[i], exact_words_));
      if (run < 0) continue;
      std::u32string letters;
      for (const int32_t* item = exact_.items_begin(run); item != exact_.items_end(run); ++item) {
        const auto one = std::lower_bound(found.begin(), found.end(), *item,
                                          [](const SharedRuns& left, int32_t right) { return left.item < right; });
        if (one == found.end() || one->item != *item || one->has_exact) continue;
        if (letters.empty()) letters = spell().run(places[i], exact_words_);
        if (spelled_[*item].find(U' ' + letters + U' ') == std::u32string::npos) continue;
        one->has_exact = true;
        one->exact = letters;
      }
    }
  }

  size_t exact_words_, overlap_words_;
  std::unordered_set<uint64_t> allowed_;
  std::vector<RunTable::Pair> exact_pairs_, overlap_pairs_;
  RunTable exact_, overlap_;
  std::vector<int64_t> different_runs_;
  std::vector<std::u32string> spelled_;  // each item's words, with blanks around each
};

}  // namespace megaphi::text
