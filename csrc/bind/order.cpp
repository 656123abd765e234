// Python bindings of csrc/index: the keyed order of the data. Arrays of numbers are contiguous int64 of any shape;
// results have the same shape. Everything that takes an array releases the GIL.
#include <cstring>

#include "../index/order.h"
#include "checked.h"
#include "index.h"

namespace {

namespace py = pybind11;
using megaphi::index::Blend;
using megaphi::index::Order;
using megaphi::index::Permutation;
using megaphi::index::SampleWindows;
using megaphi::index::SourceGrid;
using megaphi::index::TableBlend;
using megaphi::index::TreeBlend;
using megaphi::index::TreeNode;

template <class Number>
py::array_t<Number> new_like(const Int64s& numbers) {
  return py::array_t<Number>(std::vector<py::ssize_t>(numbers.shape(), numbers.shape() + numbers.ndim()));
}

Permutation new_permutation(uint64_t size, uint64_t key) {
  require(size >= 1 && size <= uint64_t{1} << 62, "a permutation needs 1 <= size <= 2^62");
  return Permutation(size, key);
}

using Lookup = void (Permutation::*)(const int64_t*, int64_t, uint64_t*) const;

template <Lookup lookup>
py::array_t<uint64_t> look_up(const Permutation& permutation, const Int64s& numbers) {
  py::array_t<uint64_t> found = new_like<uint64_t>(numbers);
  const int64_t* in = numbers.data();
  const int64_t count = numbers.size();
  uint64_t* out = found.mutable_data();
  const py::gil_scoped_release released;
  for (int64_t i = 0; i < count; i++) {
    if (in[i] < 0 || static_cast<uint64_t>(in[i]) >= permutation.size()) {
      throw std::out_of_range(std::to_string(in[i]) + " is outside a permutation of " +
                              std::to_string(permutation.size()));
    }
  }
  (permutation.*lookup)(in, count, out);
  return found;
}

std::vector<uint64_t> words_of(const std::string& bytes) {
  require(!bytes.empty() && bytes.size() % 8 == 0, "a long number: whole eight-byte words");
  std::vector<uint64_t> words(bytes.size() / 8);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

// For every share, 1 / share = whole + remainder / numerator, the latter two as little-endian bytes.
using InverseShare = std::tuple<int64_t, py::bytes, py::bytes>;

std::shared_ptr<Blend> new_table(const std::vector<InverseShare>& shares, int64_t slots, bool repeats) {
  require(is_within(slots, 1, 1 << 24), "a blend's table has 1 .. 2^24 slots");
  require(!shares.empty() && shares.size() <= size_t{1} << megaphi::index::SOURCE_BITS,
          "a blend's table has 1 .. 2^20 sources");
  std::vector<SampleWindows> sources;
  for (const auto& [whole, remainder, numerator] : shares) {
    std::vector<uint64_t> high = words_of(remainder), low = words_of(numerator);
    require(high.size() == low.size(), "remainder and numerator differ in length");
    require(is_within(whole, 1, SampleWindows::FARTHEST_DEADLINE), "a share is in (0, 1]");
    require(megaphi::index::is_less(high, low), "a remainder is less than its numerator");
    sources.emplace_back(whole, std::move(high), std::move(low));
  }
  const py::gil_scoped_release released;
  return std::make_shared<TableBlend>(std::move(sources), slots, repeats);
}

// For every node, (left, right, fraction): children are earlier nodes, or ~source.
using Node = std::tuple<int32_t, int32_t, uint64_t>;

std::shared_ptr<Blend> new_tree(int32_t root, const std::vector<Node>& nodes, int64_t sources, int64_t limit) {
  require(is_within(limit, 1, int64_t{1} << 62), "a blend has 1 .. 2^62 samples");
  std::vector<TreeNode> made;
  for (const auto& [left, right, fraction] : nodes) made.push_back({fraction, left, right});
  return std::make_shared<TreeBlend>(root, std::move(made), sources, limit);
}

py::tuple locate_in_blend(const Blend& blend, const Int64s& numbers) {
  Int64s source = new_like<int64_t>(numbers), rank = new_like<int64_t>(numbers);
  const int64_t* in = numbers.data();
  const int64_t count = numbers.size();
  int64_t* const out[] = {source.mutable_data(), rank.mutable_data()};
  {
    const py::gil_scoped_release released;
    blend.locate(in, count, out[0], out[1]);
  }
  return py::make_tuple(source, rank);
}

std::vector<int64_t> counts_of_blend(const Blend& blend, int64_t samples) {
  if (samples < 0 || samples > blend.limit()) throw std::out_of_range("outside this blend");
  return blend.counts(samples);
}

// For every source, (key, tokens, block_tokens, first_sample, first_epoch).
using Grid = std::tuple<uint64_t, int64_t, int64_t, int64_t, int64_t>;

Order new_order(std::shared_ptr<Blend> blend, const std::vector<Grid>& grids, int64_t sequence_length) {
  std::vector<SourceGrid> made;
  for (const auto& [key, tokens, block, first_sample, first_epoch] : grids) {
    made.push_back({key, tokens, block, first_sample, first_epoch});
  }
  return Order(std::move(blend), std::move(made), sequence_length);
}

py::tuple locate_in_order(const Order& order, const Int64s& numbers) {
  Int64s source = new_like<int64_t>(numbers), epoch = new_like<int64_t>(numbers), window = new_like<int64_t>(numbers),
          start = new_like<int64_t>(numbers);
  const int64_t* in = numbers.data();
  const int64_t count = numbers.size();
  const megaphi::index::Places places{source.mutable_data(), epoch.mutable_data(), window.mutable_data(),
                                      start.mutable_data()};
  {
    const py::gil_scoped_release released;
    order.locate(in, count, places);
  }
  return py::make_tuple(source, epoch, window, start);
}

}  // namespace

void bind_order(py::module_& module) {
  const auto numbers = py::arg("numbers").noconvert();
  py::class_<Permutation>(module, "Permutation", "The keyed bijection of megaphi/data/order/permutation.py.")
      .def(py::init(&new_permutation), py::arg("size"), py::arg("key"))
      .def("items_at", &look_up<&Permutation::items_at>, numbers, "Items at these positions: uint64.")
      .def("positions_of", &look_up<&Permutation::positions_of>, numbers, "Positions that hold these items: uint64.");
  py::class_<Blend, std::shared_ptr<Blend>>(module, "Blend", "One form of a blend of megaphi/data/order/blend.py.")
      .def_static("table", &new_table, py::arg("shares"), py::arg("slots"), py::arg("repeats"))
      .def_static("tree", &new_tree, py::arg("root"), py::arg("nodes"), py::arg("sources"), py::arg("limit"))
      .def_property_readonly("limit", of_object(&Blend::limit), "Samples that it holds.")
      .def("locate", &locate_in_blend, numbers, "(source, rank) of these samples: int64.")
      .def("counts", &counts_of_blend, py::arg("samples"), "Samples of each source among the first ones.");
  py::class_<Order>(module, "Order", "The order of megaphi/data/order/sample_order.py.")
      .def(py::init(&new_order), given("blend"), py::arg("grids"), py::arg("sequence_length"))
      .def("locate", &locate_in_order, numbers, "(source, epoch, window, start token) of these samples: int64.");
}
