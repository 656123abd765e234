// Python bindings of csrc/index: reading tokens and document boundaries. Arguments are checked before the GIL is
// released: shapes, ranges, and that runs fill the result exactly. Contents of files are not arguments: where reading
// fails, the location is returned, and Python raises with the file's name.
#include "../index/reader.h"

#include "../index/documents.h"
#include "checked.h"
#include "index.h"

namespace py = pybind11;
using namespace megaphi;

namespace {

Runs checked_runs(const Int64s* row, const Int64s& file, const Int64s& offset, const Int64s& count, py::ssize_t files) {
  require(file.ndim() == 1, "runs: arrays of one dimension");
  const auto size = file.size();
  Runs runs{size, row == nullptr ? nullptr : row_of(*row, size, "runs: one row each"), file.data(),
            row_of(offset, size, "runs: one offset each"), row_of(count, size, "runs: one count each")};
  for (int64_t run = 0; run < size; ++run) {
    if (runs.file[run] < 0 || runs.file[run] >= files) throw std::out_of_range("runs: no such file");
    require(runs.offset[run] >= 0 && runs.count[run] >= 0, "runs: negative offset or count");
    require(runs.count[run] <= (int64_t{1} << 59) && runs.offset[run] <= (int64_t{1} << 62), "runs: an absurd size");
  }
  return runs;
}

void check_rows(const Runs& runs, int64_t rows, int64_t columns) {
  items_of_shape(rows, columns, "a shape of no columns, or of more than 2^48 tokens");
  int64_t row = 0, filled = 0;
  for (int64_t run = 0; run < runs.size; ++run) {
    for (; row < runs.row[run]; ++row, filled = 0)
      if (row >= rows || filled != columns) throw std::invalid_argument("runs do not fill their rows exactly");
    require(row == runs.row[run] && row < rows, "runs: rows must ascend and be in range");
    filled += runs.count[run];
    require(filled <= columns, "runs are longer than their row");
  }
  require(row + (rows > 0) == rows && (rows == 0 || filled == columns), "runs do not fill their rows exactly");
}

// Descriptors of open files.
const int64_t* descriptors_of(const Int64s& files) {
  const int64_t* descriptors = row_of(files, files.size(), "files: one dimension");
  for (py::ssize_t i = 0; i < files.size(); ++i)
    require(is_within(descriptors[i], 0, std::numeric_limits<int>::max()), "files: a number that is no descriptor");
  return descriptors;
}

py::object described(const ReadFailure& failure) {
  if (failure.kind == ReadFailure::none) return py::none();
  const char* names[] = {"", "ended", "system error", "wrong token"};
  return py::make_tuple(names[failure.kind], failure.run, failure.byte, failure.value);
}

py::tuple gather_tokens(const Int64s& files, const Int64s& codes, const Int64s& row, const Int64s& file,
                        const Int64s& offset, const Int64s& count, int64_t rows, int64_t columns, int64_t vocabulary) {
  const auto* descriptors = descriptors_of(files);
  const auto* dtypes = row_of(codes, files.size(), "files: one dtype code each");
  for (py::ssize_t i = 0; i < codes.size(); ++i)
    require(bytes_of_dtype_code(dtypes[i]) != 0, "a dtype code that is not an integer type");
  const Runs runs = checked_runs(&row, file, offset, count, files.size());
  check_rows(runs, rows, columns);
  require(vocabulary > 0, "an empty vocabulary");
  py::array_t<int64_t> inputs({rows, columns - 1}), labels({rows, columns - 1});
  const InputsAndLabels out{inputs.mutable_data(), labels.mutable_data(), columns};
  ReadFailure failure;
  {
    py::gil_scoped_release release;
    failure = gather(runs, descriptors, dtypes, vocabulary, out);
  }
  return py::make_tuple(inputs, labels, described(failure));
}

py::object read_runs(const Int64s& files, const Int64s& file, const Int64s& offset, const Int64s& count,
                     py::array_t<uint8_t, py::array::c_style> out) {
  const auto* descriptors = descriptors_of(files);
  const Runs runs = checked_runs(nullptr, file, offset, count, files.size());
  int64_t bytes = 0;
  for (int64_t run = 0; run < runs.size; ++run) {
    bytes += runs.count[run];
    require(bytes <= out.size(), "runs are longer than the output");
  }
  require(bytes == out.size(), "runs do not fill the output exactly");
  char* data = reinterpret_cast<char*>(out.mutable_data());
  ReadFailure failure;
  {
    py::gil_scoped_release release;
    failure = read_bytes(runs, descriptors, data);
  }
  return described(failure);
}

Numbers numbers_of(const py::handle& object) {
  const py::array array = mapped_int64s(object, "an index is a contiguous int64 array");
  return {static_cast<const char*>(array.data()), array.size()};
}

Index index_of(const py::tuple& table) {
  require(table.size() == 4, "an index is (pointers, documents, bytes, bytes of a token)");
  const Index index{numbers_of(table[0]), numbers_of(table[1]),
                    table[2].cast<int64_t>(), table[3].cast<int64_t>()};
  require(index.itemsize >= 1 && index.itemsize <= 8, "1 to 8 bytes of a token");
  return index;
}

Int64s find_sequences(const py::object& pointers, int64_t bytes, const Int64s& offset) {
  const Numbers numbers = numbers_of(pointers);
  const auto* targets = row_of(offset, offset.size(), "offsets: one dimension");
  for (py::ssize_t i = 0; i < offset.size(); ++i)
    if (targets[i] < 0 || targets[i] >= bytes) throw std::out_of_range("an offset beyond the data");
  require(numbers.size > 0 || offset.size() == 0, "bytes without sequences");
  Int64s out(offset.size());
  int64_t* found = out.mutable_data();
  const auto size = offset.size();
  {
    py::gil_scoped_release release;
    for (py::ssize_t i = 0; i < size; ++i) found[i] = find_sequence(numbers, bytes, targets[i]);
  }
  return out;
}

// Runs of tokens here: offset and count both in tokens.
int64_t number_all(const std::vector<Index>& indices, const Runs& runs, int32_t* ids, int64_t& sequence) {
  int64_t number = 0, row = -1;
  for (int64_t run = 0; run < runs.size; ++run) {
    if (runs.count[run] == 0) continue;
    number = runs.row[run] == row ? number + 1 : 0;
    row = runs.row[run];
    number = number_documents(indices[runs.file[run]], runs.offset[run], runs.count[run], number, ids);
    if (number < 0) {
      sequence = -1 - number;
      return run;
    }
    ids += runs.count[run];
  }
  return -1;
}

py::tuple document_ids(const std::vector<py::tuple>& tables, const Int64s& row, const Int64s& file, const Int64s& start,
                       const Int64s& count, int64_t rows, int64_t columns) {
  std::vector<Index> indices;
  for (const auto& table : tables) indices.push_back(index_of(table));
  const Runs runs = checked_runs(&row, file, start, count, static_cast<py::ssize_t>(tables.size()));
  check_rows(runs, rows, columns);
  for (int64_t run = 0; run < runs.size; ++run) {
    const Index& index = indices[runs.file[run]];
    if (runs.count[run] > 0 && runs.offset[run] > index.data_bytes / index.itemsize - runs.count[run])
      throw std::out_of_range("runs: tokens beyond the end of the data");
    require(runs.count[run] == 0 || index.pointers.size > 0, "tokens without sequences");
  }
  py::array_t<int32_t> out({rows, columns});
  int32_t* ids = out.mutable_data();
  int64_t failed = -1, sequence = -1;
  {
    py::gil_scoped_release release;
    failed = number_all(indices, runs, ids, sequence);
  }
  return py::make_tuple(out, failed < 0 ? py::object(py::none()) : py::object(py::make_tuple(failed, sequence)));
}

}  // namespace

void bind_reader(py::module_& module) {
  module.def("gather_tokens", &gather_tokens, py::arg("files"), py::arg("codes"), py::arg("row"), py::arg("file"),
             py::arg("offset"), py::arg("count"), py::kw_only(), py::arg("rows"), py::arg("columns"),
             py::arg("vocabulary"),
             "Tokens of runs (offsets in bytes, counts in tokens) that fill rows: (all but the last of each, all but "
             "the first, None or (what failed, run, byte in the run, errno or token)), int64 [rows, columns - 1].");
  module.def("read_runs", &read_runs, py::arg("files"), py::arg("file"), py::arg("offset"), py::arg("count"),
             py::arg("out").noconvert(), "Read runs into `out`, back to back; returns None or what failed.");
  module.def("find_sequences", &find_sequences, py::arg("pointers"), py::arg("bytes"), py::arg("offset"),
             "For each byte offset, the last sequence that begins there or before: int64 [N].");
  module.def("document_ids", &document_ids, py::arg("indices"), py::arg("row"), py::arg("file"), py::arg("start"),
             py::arg("count"), py::kw_only(), py::arg("rows"), py::arg("columns"),
             "Documents of runs of tokens, 0, 1, .. along each row: (int32 [rows, columns], None or (run, sequence) "
             "where an index (pointers, documents, bytes, bytes of a token) is corrupted).");
}
