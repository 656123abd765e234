// Python bindings of csrc/index/megatron_order.h. Results go into arrays that Python allocates, so that their dtypes
// decide how much memory the order takes; nothing is converted or copied, and the GIL is released meanwhile.
#include "../index/megatron_order.h"

#include <limits>

#include "checked.h"
#include "index.h"

namespace py = pybind11;
using namespace megaphi::megatron_order;

namespace {

constexpr int64_t MOST_TOKENS = int64_t{1} << 40;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
Unaligned<T> unaligned(const Array<T>& array) {
  return {static_cast<const py::array&>(array).data(), array.size()};
}

template <size_t bytes>
void shuffle_rows(NumpyShuffle& shuffle, py::array& array) {
  void* items = array.mutable_data();
  const int64_t count = array.shape(0);
  py::gil_scoped_release release;
  shuffle.shuffle<bytes>(items, count);
}

void shuffle_array(NumpyShuffle& shuffle, py::array array) {
  require(array.ndim() >= 1 && (array.flags() & py::array::c_style), "shuffle: a contiguous array of one or more rows");
  if (array.size() == 0) return;
  switch (array.nbytes() / array.shape(0)) {
    case 4: return shuffle_rows<4>(shuffle, array);
    case 8: return shuffle_rows<8>(shuffle, array);
    case 16: return shuffle_rows<16>(shuffle, array);
    default: require(false, "shuffle: rows of 4, 8 or 16 bytes");
  }
}

template <class Document, class Place>
void sample_starts(const Array<int32_t>& lengths, const Array<Document>& documents, int64_t sequence_length,
                   Array<Place>& starts) {
  require(documents.ndim() == 1, "megatron_sample_starts: documents of one dimension");
  require(starts.ndim() == 2 && starts.shape(1) == 2, "megatron_sample_starts: starts of shape [samples, 2]");
  require(is_within(sequence_length, 1, MOST_TOKENS), "megatron_sample_starts: a sequence of 1 .. 2^40 tokens");
  require(static_cast<uint64_t>(documents.size()) <= std::numeric_limits<Place>::max(),
        "megatron_sample_starts: more documents than the dtype of starts can count");
  const auto sizes = unaligned(lengths);
  const Document* order = documents.data();
  Place* places = starts.mutable_data();
  const int64_t entries = documents.size(), samples = starts.shape(0);
  py::gil_scoped_release release;
  find_sample_starts(sizes, order, entries, sequence_length, places, samples);
}

template <class Rank>
void check_blend(size_t inputs, const Array<int16_t>& datasets, const Array<Rank>& ranks) {
  require(inputs >= 1 && inputs < std::numeric_limits<int16_t>::max(), "megatron_blend: 1 .. 32,766 datasets");
  require(datasets.ndim() == 1 && ranks.ndim() == 1 && datasets.size() == ranks.size(),
        "megatron_blend: datasets and ranks of one dimension and the same size");
  require(static_cast<uint64_t>(ranks.size()) <= std::numeric_limits<Rank>::max(),
        "megatron_blend: more samples than the dtype of ranks can count");
}

template <class Rank>
std::vector<int64_t> blend_shares(const std::vector<double>& shares, Array<int16_t>& datasets, Array<Rank>& ranks) {
  check_blend(shares.size(), datasets, ranks);
  for (const double share : shares) require(share > 0 && share <= 1, "megatron_blend: shares in (0, 1]");
  int16_t* chosen = datasets.mutable_data();
  Rank* numbers = ranks.mutable_data();
  const int64_t samples = datasets.size();
  py::gil_scoped_release release;
  return blend(shares, chosen, numbers, samples);
}

template <class Rank>
void blend_sizes(const std::vector<int64_t>& sizes, Array<int16_t>& datasets, Array<Rank>& ranks) {
  check_blend(sizes.size(), datasets, ranks);
  int64_t missing = datasets.size();
  for (const int64_t size : sizes) {
    require(size >= 1 && size <= missing, "megatron_blend_all: sizes of at least 1 that sum to the number of samples");
    missing -= size;
  }
  require(missing == 0, "megatron_blend_all: sizes of at least 1 that sum to the number of samples");
  int16_t* chosen = datasets.mutable_data();
  Rank* numbers = ranks.mutable_data();
  py::gil_scoped_release release;
  blend_all(sizes, chosen, numbers);
}

py::array_t<int64_t> array_of(const std::vector<int64_t>& values) {
  return py::array_t<int64_t>(static_cast<int64_t>(values.size()), values.data());
}

template <class Document>
py::tuple runs(const Array<int32_t>& lengths, const Array<int64_t>& pointers, int64_t token_bytes,
               const Array<Document>& documents, const Array<int64_t>& starts, int64_t tokens) {
  require(lengths.size() == pointers.size(), "megatron_runs: one pointer per length");
  require(documents.ndim() == 1 && starts.ndim() == 2 && starts.shape(1) == 2,
        "megatron_runs: starts of shape [rows, 2]");
  require(is_within(token_bytes, 1, 8), "megatron_runs: 1 .. 8 bytes per token");
  require(is_within(tokens, 1, MOST_TOKENS), "megatron_runs: 1 .. 2^40 tokens per row");
  for (py::ssize_t i = 0; i < starts.size(); ++i) require(starts.data()[i] >= 0, "megatron_runs: a start below zero");
  const auto sizes = unaligned(lengths);
  const auto offsets = unaligned(pointers);
  const Document* order = documents.data();
  const int64_t *places = starts.data(), entries = documents.size(), rows = starts.shape(0);
  Stretches found;
  {
    py::gil_scoped_release release;
    found = find_stretches(sizes, offsets, token_bytes, order, entries, places, rows, tokens);
  }
  return py::make_tuple(array_of(found.row), array_of(found.start), array_of(found.count));
}

template <class Document>
void bind_for_documents(py::module_& module) {
  const auto lengths = py::arg("lengths").noconvert(), documents = py::arg("documents").noconvert();
  module.def("megatron_sample_starts", &sample_starts<Document, uint32_t>, lengths, documents, py::kw_only(),
             py::arg("sequence_length"), py::arg("out").noconvert(),
             "Find the start of each sample: out[k] = (entry of `documents`, token within it).");
  module.def("megatron_sample_starts", &sample_starts<Document, int64_t>, lengths, documents, py::kw_only(),
             py::arg("sequence_length"), py::arg("out").noconvert());
  module.def("megatron_runs", &runs<Document>, lengths, py::arg("pointers").noconvert(), py::arg("token_bytes"),
             documents, py::arg("starts").noconvert(), py::arg("tokens"),
             "The stretches of the .bin that hold `tokens` tokens from each start on: (row, first token, tokens).");
}

template <class Rank>
void bind_for_ranks(py::module_& module) {
  const auto datasets = py::arg("datasets").noconvert(), ranks = py::arg("ranks").noconvert();
  module.def("megatron_blend", &blend_shares<Rank>, py::arg("shares"), datasets, ranks,
             "Fill in dataset and rank of every sample, greedily by share; returns the samples of each dataset.");
  module.def("megatron_blend_all", &blend_sizes<Rank>, py::arg("sizes"), datasets, ranks,
             "The same until each dataset has given exactly its size.");
}

}  // namespace

void bind_megatron_order(py::module_& module) {
  py::class_<NumpyShuffle>(module, "NumpyShuffle", "numpy.random.RandomState(seed), for shuffling only.")
      .def(py::init<uint32_t>(), py::arg("seed"))
      .def("__call__", &shuffle_array, py::arg("array"), "Shuffle the rows (of 4, 8 or 16 bytes) in place.");
  bind_for_documents<int32_t>(module);
  bind_for_documents<int64_t>(module);
  bind_for_ranks<uint32_t>(module);
  bind_for_ranks<int64_t>(module);
}
