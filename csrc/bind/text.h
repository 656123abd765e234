// Text from Python for csrc/text: a str is read where it lies, without a copy, in whichever width it has. Pages of
// characters that are missing, and the normal form of a text that needs one, are asked of Python in between.
#pragma once
#include <optional>

#include "../text/words.h"
#include "index.h"

struct PythonCharacters {
  megaphi::text::Characters characters;
  pybind11::function describe;    // page -> (bytes of kinds, {code: None or (form, bytes of its kinds)})
  pybind11::function normalized;  // text -> its normal form

  void add_page(uint32_t page);

  // Reads a text's words into `words`, a class of csrc/text/words.h, which is empty.
  template <class Words>
  Words words_of(const pybind11::str& text);
};

template <class Words>
Words PythonCharacters::words_of(const pybind11::str& text) {
  using megaphi::text::Reading;
  namespace py = pybind11;
  constexpr Py_ssize_t LONG_TEXT = 1 << 18;  // characters from which on other threads may run meanwhile
  py::str current = text;
  bool is_normal = false;
  for (;;) {
    Words words;
    Reading reading;
    const Py_ssize_t size = PyUnicode_GET_LENGTH(current.ptr());
    const void* data = PyUnicode_DATA(current.ptr());
    const int width = static_cast<int>(PyUnicode_KIND(current.ptr()));
    {
      // Pages are added under the GIL by threads that miss them: only texts of ASCII and Latin letters do without.
      std::optional<py::gil_scoped_release> released;
      if (size >= LONG_TEXT && width == 1 && characters.knows(128)) released.emplace();
      if (width == 1) {
        reading = read_words(static_cast<const uint8_t*>(data), size, characters, is_normal, words);
      } else if (width == 2) {
        reading = read_words(static_cast<const uint16_t*>(data), size, characters, is_normal, words);
      } else {
        reading = read_words(static_cast<const uint32_t*>(data), size, characters, is_normal, words);
      }
    }
    if (reading.kind == Reading::whole) return words;
    if (reading.kind == Reading::missing_page) {
      add_page(reading.code / megaphi::text::Characters::PAGE);
    } else {
      current = py::str(normalized(text));
      is_normal = true;
    }
  }
}
