// The characters of words: what each one is, and the form in which it is compared (NFKC, lower case). Unicode's tables
// belong to Python; they are asked for once per 256 code points, when a text first has one of them. A character's form
// may be several characters. Some have none of their own, because it depends on their neighbours (accents that join the
// letter before them, the two small sigmas): a text with one of these is normalised as a whole first, by Python.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace megaphi::text {

// No part of a word; a part of one; a word by itself; what belongs to the character before it.
enum Kind : uint8_t { separates, joins, stands_alone, marks };

// Spreads every bit over all others (the finaliser of splitmix64).
inline uint64_t mixed(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

// Never 0, so that 0 can say that an ASCII character belongs to no word.
inline uint64_t hash_of_letter(uint32_t code) { return mixed((code + uint64_t{1}) * 0x9E3779B97F4A7C15) | 1; }

struct Letter {
  uint32_t code;
  Kind kind;
};
using Form = std::vector<Letter>;

class Characters {
 public:
  static constexpr uint32_t PAGE = 256, PAGES = 0x110000 / PAGE;

  Characters() {
    for (uint32_t code = 0; code < 128; ++code) {
      const bool is_upper = code >= 'A' && code <= 'Z';
      const bool is_word = is_upper || (code >= 'a' && code <= 'z') || (code >= '0' && code <= '9');
      lower[code] = static_cast<uint8_t>(is_upper ? code + 32 : code);
      hash_of_lower[code] = is_word ? hash_of_letter(lower[code]) : 0;
    }
  }

  std::array<uint8_t, 128> lower;
  std::array<uint64_t, 128> hash_of_lower;  // 0: no part of a word

  // 256 code points: what each is, and the forms of those that are not their own form. A page is whole before it is
  // seen, and stays: who reads one needs no lock.
  struct Page {
    static constexpr uint32_t ITSELF = 0, CONTEXTUAL = 1, OTHER = 2;
    std::array<Kind, PAGE> kind{};
    std::array<uint32_t, PAGE> form{};
    std::vector<Form> others;

    explicit Page(const uint8_t* kinds) {
      for (uint32_t i = 0; i < PAGE; ++i) kind[i] = checked_kind(kinds[i]);
    }
    void set_contextual(uint32_t code) { form[code % PAGE] = CONTEXTUAL; }
    void set_form(uint32_t code, Form other) {
      form[code % PAGE] = static_cast<uint32_t>(others.size()) + OTHER;
      others.push_back(std::move(other));
    }
  };
  static Kind checked_kind(uint8_t kind) {
    if (kind > marks) throw std::invalid_argument("a kind of character is 0, 1, 2 or 3");
    return static_cast<Kind>(kind);
  }
  void add_page(uint32_t page, std::unique_ptr<Page> made) { pages_.at(page) = std::move(made); }

  bool knows(uint32_t code) const { return pages_[code / PAGE] != nullptr; }
  Kind kind_of(uint32_t code) const { return pages_[code / PAGE]->kind[code % PAGE]; }
  bool is_contextual(uint32_t code) const { return pages_[code / PAGE]->form[code % PAGE] == Page::CONTEXTUAL; }
  // The form of a character that has another than itself, else null.
  const Form* other_form(uint32_t code) const {
    const Page& page = *pages_[code / PAGE];
    const uint32_t form = page.form[code % PAGE];
    return form < Page::OTHER ? nullptr : &page.others[form - Page::OTHER];
  }

 private:
  std::vector<std::unique_ptr<Page>> pages_ = std::vector<std::unique_ptr<Page>>(PAGES);
};

}  // namespace megaphi::text
