// Reads runs of tokens from files: by pread(2), because a memory map of a file that shrinks kills the whole process. A
// run is `count` items from a byte offset of an open file on. `gather` widens the tokens of runs to int64, back to back
// in their rows, as inputs and as labels, and checks every one along the way: a token outside the vocabulary would
// crash far from its cause. `read_bytes` copies runs as they are. The first run that fails ends both and is reported
// with the position in it. Short files are harmless to pread: it returns fewer bytes, and none at the end.
#pragma once
#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

namespace megaphi {

// Location of a failure: this byte of this run. `error` is errno, 0 at the end of the file; or a token is wrong.
struct ReadFailure {
  enum Kind { none, ended, system_error, wrong_token };
  Kind kind = none;
  int64_t run = -1;
  int64_t byte = 0;
  int64_t value = 0;  // errno, or the token
};

// Sizes of Megatron's codes of integer types; 0 for all others.
inline int64_t bytes_of_dtype_code(int64_t code) {
  switch (code) {
    case 1:
    case 2: return 1;
    case 3:
    case 8: return 2;
    case 4: return 4;
    case 5: return 8;
    default: return 0;
  }
}

// Reads `count` bytes, in as many calls as needed; false with the reason if the file does not hold them.
inline bool read_fully(int file, char* out, int64_t count, int64_t offset, ReadFailure& failure) {
  constexpr int64_t most_at_once = 1 << 30;  // Linux reads at most 2^31 - 4096 bytes in one call
  int64_t done = 0;
  while (done < count) {
    const auto wanted = static_cast<size_t>(std::min(count - done, most_at_once));
    const ssize_t got = pread(file, out + done, wanted, static_cast<off_t>(offset + done));
    if (got > 0) {
      done += got;
    } else if (got == 0 || errno != EINTR) {
      failure.kind = got == 0 ? ReadFailure::ended : ReadFailure::system_error;
      failure.value = got == 0 ? 0 : errno;
      failure.byte += done;
      return false;
    }
  }
  return true;
}

// Widens `count` tokens; the index of the first one outside [0, vocabulary), or `count`.
template <typename Token>
int64_t widen(const Token* tokens, int64_t count, int64_t vocabulary, int64_t* out) {
  using Unsigned = std::make_unsigned_t<Token>;
  const int64_t largest = std::min<int64_t>(vocabulary - 1, std::numeric_limits<Token>::max());
  const auto limit = static_cast<Unsigned>(largest);  // a negative token is a large unsigned one
  unsigned wrong = 0;
#pragma omp simd reduction(| : wrong)
  for (int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<int64_t>(tokens[i]);
    wrong |= static_cast<Unsigned>(tokens[i]) > limit;
  }
  if (!wrong) return count;
  int64_t first = 0;
  while (static_cast<Unsigned>(tokens[first]) <= limit) ++first;
  return first;
}

inline int64_t widen_as(int64_t code, const char* tokens, int64_t count, int64_t vocabulary, int64_t* out) {
  const void* data = tokens;
  switch (code) {
    case 1: return widen(static_cast<const uint8_t*>(data), count, vocabulary, out);
    case 2: return widen(static_cast<const int8_t*>(data), count, vocabulary, out);
    case 3: return widen(static_cast<const int16_t*>(data), count, vocabulary, out);
    case 8: return widen(static_cast<const uint16_t*>(data), count, vocabulary, out);
    case 4: return widen(static_cast<const int32_t*>(data), count, vocabulary, out);
    default: return widen(static_cast<const int64_t*>(data), count, vocabulary, out);
  }
}

// N runs, as arrays of N each; `file` indexes `files` (descriptors) and `codes` (dtype codes).
struct Runs {
  int64_t size;
  const int64_t* row;
  const int64_t* file;
  const int64_t* offset;  // in bytes
  const int64_t* count;   // in tokens for `gather`, in bytes for `read_bytes`
};

// Destination of rows of `columns` tokens: two arrays [rows, columns - 1], all but the last of every row, and all but
// the first. The tokens of a run are still in the cache when they are widened for the second time.
struct InputsAndLabels {
  int64_t* inputs;
  int64_t* labels;
  int64_t columns;

  // Takes `count` tokens of one row, the first of them at `place` = row x columns + column; the index of the first one
  // outside the vocabulary, or `count`.
  int64_t take(int64_t code, const char* tokens, int64_t count, int64_t place, int64_t vocabulary) const {
    const int64_t row = place / columns, column = place % columns, length = columns - 1;
    const int64_t begun = column == 0 ? 1 : 0, width = bytes_of_dtype_code(code);
    const int64_t as_inputs = std::min(count, length - column);
    const int64_t right = widen_as(code, tokens, as_inputs, vocabulary, inputs + row * length + column);
    if (right < as_inputs) return right;
    return begun + widen_as(code, tokens + begun * width, count - begun, vocabulary,
                            labels + row * length + column - 1 + begun);
  }
};

// The first token outside the vocabulary, as it is in a file.
inline int64_t token_at(int64_t code, const char* tokens, int64_t index) {
  int64_t token = 0;
  widen_as(code, tokens + index * bytes_of_dtype_code(code), 1, 1, &token);
  return token;
}

// Tokens of all runs to `out`. Rows ascend, and the runs of each fill it exactly: the caller has checked.
inline ReadFailure gather(const Runs& runs, const int64_t* files, const int64_t* codes, int64_t vocabulary,
                          const InputsAndLabels& out) {
  constexpr int64_t scratch_bytes = 1 << 16;  // stays in the cache between reading and widening
  const std::unique_ptr<char[]> scratch(new char[scratch_bytes]);
  int64_t place = 0;
  for (int64_t run = 0; run < runs.size; ++run) {
    const int64_t code = codes[runs.file[run]], width = bytes_of_dtype_code(code);
    for (int64_t done = 0; done < runs.count[run];) {
      const int64_t part = std::min(runs.count[run] - done, scratch_bytes / width);
      ReadFailure failure{ReadFailure::none, run, done * width, 0};
      if (!read_fully(static_cast<int>(files[runs.file[run]]), scratch.get(), part * width,
                      runs.offset[run] + done * width, failure))
        return failure;
      const int64_t right = out.take(code, scratch.get(), part, place, vocabulary);
      if (right < part)
        return {ReadFailure::wrong_token, run, (done + right) * width, token_at(code, scratch.get(), right)};
      place += part;
      done += part;
    }
  }
  return {};
}

// Bytes of all runs, back to back.
inline ReadFailure read_bytes(const Runs& runs, const int64_t* files, char* out) {
  for (int64_t run = 0; run < runs.size; ++run) {
    ReadFailure failure{ReadFailure::none, run, 0, 0};
    if (!read_fully(static_cast<int>(files[runs.file[run]]), out, runs.count[run], runs.offset[run], failure))
      return failure;
    out += runs.count[run];
  }
  return {};
}

}  // namespace megaphi
