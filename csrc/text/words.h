// Texts to words, and words to hashes of runs of words, in one pass over the characters. ASCII takes one table look-up
// and one multiplication a letter. A word's hash is a polynomial of its letters, a run's one of its words, both modulo
// 2^64 and then mixed: a run of n words follows from the one before it with two multiplications, whatever n.
#pragma once
#include <cstddef>
#include <string>

#include "characters.h"

namespace megaphi::text {

constexpr uint64_t LETTER_FACTOR = 0x9E3779B97F4A7C15, WORD_FACTOR = 0xD6E8FEB86659FD93;

// Whether a text was read to its end: else a page of characters is missing (`code`), or it must be normalised first.
struct Reading {
  enum Kind { whole, missing_page, contextual } kind = whole;
  uint32_t code = 0;
};

// Gives the letters of a text's words to `words`, which has begin(), letter(code), ascii(code, hash) and end(); the
// codes are those of the form in which words are compared. A text that `is_normal` already is taken as it is.
template <class Char, class Words>
Reading read_words(const Char* text, size_t size, const Characters& characters, bool is_normal, Words& words) {
  Kind before = separates;
  const auto take = [&](uint32_t code, Kind kind) {
    if (kind == separates) {
      if (before != separates) words.end();
    } else {
      const bool starts = kind == stands_alone || before == separates || (kind == joins && before == stands_alone);
      if (starts && before != separates) words.end();
      if (starts) words.begin();
      words.letter(code);
    }
    before = kind;
  };
  for (size_t i = 0; i < size;) {
    uint32_t code = text[i];
    if (code < 128) {
      uint64_t hash = characters.hash_of_lower[code];
      if (hash == 0) {
        if (before != separates) words.end();
        before = separates;
        ++i;
        continue;
      }
      if (before == stands_alone) words.end();
      if (before == separates || before == stands_alone) words.begin();
      do {
        words.ascii(characters.lower[code], hash);
        ++i;
      } while (i < size && (code = text[i]) < 128 && (hash = characters.hash_of_lower[code]) != 0);
      before = joins;
      continue;
    }
    if (!characters.knows(code)) return {Reading::missing_page, code};
    if (is_normal) {
      take(code, characters.kind_of(code));
    } else if (characters.is_contextual(code)) {
      return {Reading::contextual, code};
    } else if (const Form* form = characters.other_form(code)) {
      for (const Letter& letter : *form) take(letter.code, letter.kind);
    } else {
      take(code, characters.kind_of(code));
    }
    ++i;
  }
  if (before != separates) words.end();
  return {};
}

// The hashes of a text's words.
class WordHashes {
 public:
  std::vector<uint64_t> hashes;

  void begin() { hash_ = length_ = 0; }
  void letter(uint32_t code) { ascii(code, hash_of_letter(code)); }
  void ascii(uint32_t, uint64_t hash) {
    hash_ = (hash_ + hash) * LETTER_FACTOR;
    ++length_;
  }
  void end() { hashes.push_back(mixed(hash_ + length_)); }

 private:
  uint64_t hash_ = 0, length_ = 0;
};

// The words themselves, one blank before each.
class SpelledWords {
 public:
  std::u32string text;
  std::vector<size_t> starts;

  void begin() {
    text.push_back(U' ');
    starts.push_back(text.size());
  }
  void letter(uint32_t code) { text.push_back(code); }
  void ascii(uint32_t code, uint64_t) { text.push_back(code); }
  void end() {}

  std::u32string run(size_t first, size_t count) const {
    const size_t stop = first + count < starts.size() ? starts[first + count] - 1 : text.size();
    return text.substr(starts[first], stop - starts[first]);
  }
};

// Hash of a run of words.
inline uint64_t hash_of_run(const uint64_t* words, size_t size) {
  uint64_t sum = 0;
  for (size_t i = 0; i < size; ++i) sum = sum * WORD_FACTOR + words[i];
  return mixed(sum + size);
}

// Calls take(first word, hash) for all runs of `size` words, in order.
template <class Take>
void each_run(const std::vector<uint64_t>& words, size_t size, Take take) {
  if (size == 0 || words.size() < size) return;
  uint64_t highest = 1, sum = 0;  // the factor of a run's first word
  for (size_t i = 1; i < size; ++i) highest *= WORD_FACTOR;
  for (size_t i = 0; i + 1 < size; ++i) sum = sum * WORD_FACTOR + words[i];
  for (size_t first = 0; first + size <= words.size(); ++first) {
    sum = sum * WORD_FACTOR + words[first + size - 1];
    take(first, mixed(sum + size));
    sum -= words[first] * highest;
  }
}

}  // namespace megaphi::text
