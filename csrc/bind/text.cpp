// Python bindings of csrc/text: words, hashes of runs of words, benchmark items, signatures, clusters.
#include "text.h"

#include "../text/benchmark_items.h"
#include "../text/clusters.h"
#include "../text/minhash.h"
#include "checked.h"

namespace py = pybind11;
using namespace megaphi::text;

namespace {

py::str string_of(const std::u32string& text) {
  PyObject* made = PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, text.data(), static_cast<Py_ssize_t>(text.size()));
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(made);
}

std::u32string code_points(const py::handle& text) {
  if (!py::isinstance<py::str>(text)) throw py::type_error("the form of a character is a text");
  std::u32string codes(static_cast<size_t>(PyUnicode_GetLength(text.ptr())), U'\0');
  auto* out = reinterpret_cast<Py_UCS4*>(codes.data());
  if (!codes.empty() && PyUnicode_AsUCS4(text.ptr(), out, static_cast<Py_ssize_t>(codes.size()), 0) == nullptr)
    throw py::error_already_set();
  return codes;
}

template <class Number>
py::array_t<Number> array_of(const std::vector<Number>& numbers) {
  return py::array_t<Number>(static_cast<py::ssize_t>(numbers.size()), numbers.data());
}

py::str spelled(PythonCharacters& characters, const py::str& text) {
  const auto words = characters.words_of<SpelledWords>(text);
  return string_of(words.text.empty() ? words.text : words.text.substr(1));
}

py::tuple run_hash(PythonCharacters& characters, const py::str& text) {
  const auto words = characters.words_of<WordHashes>(text).hashes;
  return py::make_tuple(hash_of_run(words.data(), words.size()), words.size());
}

std::vector<uint64_t> all_runs(PythonCharacters& characters, const py::str& text, size_t size) {
  require(size >= 1, "a run has at least one word");
  const auto words = characters.words_of<WordHashes>(text).hashes;
  std::vector<uint64_t> runs;
  runs.reserve(words.size());
  each_run(words, size, [&](size_t, uint64_t hash) { runs.push_back(hash); });
  if (runs.empty() && !words.empty()) runs.push_back(hash_of_run(words.data(), words.size()));
  return runs;
}

py::array_t<uint64_t> smallest_runs(PythonCharacters& characters, const py::str& text, size_t size, size_t most) {
  require(size >= 1, "a run has at least one word");
  std::vector<uint64_t> runs;
  each_run(characters.words_of<WordHashes>(text).hashes, size, [&](size_t, uint64_t hash) { runs.push_back(hash); });
  keep_different(runs);
  if (runs.size() > most) runs.resize(most);
  return array_of(runs);
}

bool sign(PythonCharacters& characters, const py::str& text, size_t words,
          py::array_t<uint32_t, py::array::c_style> out) {
  // The work grows with the square of its size where a text has few words.
  require(out.ndim() == 1 && is_within(out.size(), 1, 1 << 12), "a signature is a row of 1 .. 4,096 numbers");
  const std::vector<uint64_t> runs = all_runs(characters, text, words);
  if (runs.empty()) return false;
  write_signature(runs, static_cast<uint32_t>(out.size()), out.mutable_data());
  return true;
}

std::shared_ptr<BenchmarkItems> new_items(PythonCharacters& characters, const py::list& texts, size_t exact_words,
                                          size_t overlap_words, const py::list& allowed) {
  require(overlap_words >= 1 && overlap_words <= exact_words, "runs of 1 <= short <= long words");
  std::unordered_set<uint64_t> hashes;
  for (const auto& run : allowed) {
    const auto words = characters.words_of<WordHashes>(py::cast<py::str>(run)).hashes;
    each_run(words, exact_words, [&](size_t, uint64_t hash) { hashes.insert(hash); });
  }
  auto items = std::make_shared<BenchmarkItems>(exact_words, overlap_words, std::move(hashes));
  for (const auto& one : texts) {
    const auto text = py::cast<py::str>(one);
    items->add(characters.words_of<WordHashes>(text).hashes, characters.words_of<SpelledWords>(text));
  }
  items->finish();
  return items;
}

// (whether the text has a short run at all, [(item, shared, smaller, exact run or None), ..]).
py::tuple match(const BenchmarkItems& items, PythonCharacters& characters, const py::str& text) {
  const auto words = characters.words_of<WordHashes>(text).hashes;
  std::optional<SpelledWords> letters;
  const auto spell = [&]() -> const SpelledWords& {
    if (!letters) letters = characters.words_of<SpelledWords>(text);
    return *letters;
  };
  py::list found;
  for (const SharedRuns& one : items.match(words, spell)) {
    py::object exact = py::none();
    if (one.has_exact) exact = string_of(one.exact);
    found.append(py::make_tuple(one.item, one.shared, one.smaller, exact));
  }
  return py::make_tuple(words.size() >= items.overlap_words(), found);
}

py::list exact_runs(const BenchmarkItems& items, PythonCharacters& characters, const py::str& text) {
  std::vector<size_t> places;
  items.each_exact(characters.words_of<WordHashes>(text).hashes, [&](size_t first) { places.push_back(first); });
  py::list runs;
  if (places.empty()) return runs;
  const auto words = characters.words_of<SpelledWords>(text);
  for (const size_t first : places) runs.append(string_of(words.run(first, items.exact_words())));
  return runs;
}

void check_members(const Int64s& members, int64_t count) {
  for (py::ssize_t i = 0; i < members.size(); ++i)
    if (!is_within(members.data()[i], 0, count - 1)) throw std::out_of_range("no such member");
}

// Every member's parent is no larger than itself, so that each way up ends.
void check_parents(const Int64s& parents) {
  for (py::ssize_t i = 0; i < parents.size(); ++i)
    require(is_within(parents.data()[i], 0, i), "clusters: a parent that is larger than its member, or below zero");
}

void link_members(Int64s parents, const Int64s& left, const Int64s& right) {
  require(left.size() == right.size(), "links: as many left as right ends");
  check_parents(parents);
  check_members(left, parents.size());
  check_members(right, parents.size());
  int64_t* of = parents.mutable_data();
  const py::gil_scoped_release released;
  for (py::ssize_t i = 0; i < left.size(); ++i) link(of, left.data()[i], right.data()[i]);
}

void point_to_roots(Int64s parents) {
  check_parents(parents);
  int64_t* of = parents.mutable_data();
  const int64_t count = parents.size();
  const py::gil_scoped_release released;
  for (int64_t member = 0; member < count; ++member) of[member] = root_of(of, member);
}

}  // namespace

void PythonCharacters::add_page(uint32_t page) {
  const auto described = describe(page).cast<py::tuple>();
  const auto kinds = described[0].cast<std::string>();
  require(kinds.size() == Characters::PAGE, "a page has 256 kinds");
  auto made = std::make_unique<Characters::Page>(reinterpret_cast<const uint8_t*>(kinds.data()));
  for (const auto& [code, form] : described[1].cast<py::dict>()) {
    if (form.is_none()) {
      made->set_contextual(code.cast<uint32_t>());
      continue;
    }
    const auto pair = form.cast<py::tuple>();
    const std::u32string codes = code_points(pair[0]);
    const auto kinds_of_form = pair[1].cast<std::string>();
    require(kinds_of_form.size() == codes.size(), "a form has a kind for each character");
    Form letters;
    for (size_t i = 0; i < codes.size(); ++i) {
      const Kind kind = Characters::checked_kind(static_cast<uint8_t>(kinds_of_form[i]));
      letters.push_back({static_cast<uint32_t>(codes[i]), kind});
    }
    made->set_form(code.cast<uint32_t>(), std::move(letters));
  }
  if (!characters.knows(page * Characters::PAGE)) characters.add_page(page, std::move(made));
}

void bind_text(py::module_& module) {
  const auto text = py::arg("text");
  py::class_<PythonCharacters>(module, "Characters", "Characters and words, as megaphi/decontamination/words.py says.")
      .def(py::init([](py::function describe, py::function normalized) {
             return PythonCharacters{{}, std::move(describe), std::move(normalized)};
           }),
           py::arg("describe"), py::arg("normalized"))
      .def("spelled", &spelled, text, "The words of a text, one blank between them.")
      .def("run_hash", &run_hash, text, "(hash of all words as one run, number of words).")
      .def("smallest_runs", &smallest_runs, text, py::arg("size"), py::arg("most"),
           "The smallest different hashes of the runs of `size` words: uint64, ascending.")
      .def("sign", &sign, text, py::arg("words"), py::arg("out").noconvert(),
           "Write the MinHash signature of the runs of `words` words (of all words where there are fewer) into a row "
           "of uint32; False if the text has no word.");
  py::class_<BenchmarkItems, std::shared_ptr<BenchmarkItems>>(module, "BenchmarkItems", "Items by their runs of words.")
      .def(py::init(&new_items), py::arg("characters"), py::arg("texts"), py::arg("exact_words"),
           py::arg("overlap_words"), py::arg("allowed"))
      .def_property_readonly("different_runs", of_object(&BenchmarkItems::different_runs),
                             "Of each item: different short runs.")
      .def("match", &match, py::arg("characters"), text,
           "(whether it has a short run at all, [(item, shared, smaller, long run or None) in the order of items]).")
      .def("exact_runs", &exact_runs, py::arg("characters"), text, "The long runs that some item has too, in order.");
  module.def("link_members", &link_members, py::arg("parents").noconvert(), py::arg("left"), py::arg("right"),
             "Put the clusters of left[i] and right[i] together, in `parents`: int64, written in place.");
  module.def("point_to_roots", &point_to_roots, py::arg("parents").noconvert(),
             "Let every member point to the smallest of its cluster.");
}
