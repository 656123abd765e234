// Conversions of what Python passes in, for every binding of csrc/index and csrc/text: an argument has the type, shape,
// byte order and range that the code behind it trusts, or the call raises before anything is read. Nothing is rounded:
// an array of fractions is no array of numbers. Objects of ours are never None (`given`).
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>

// int64 of any shape, contiguous; converted only from types whose every value fits.
using Int64s = pybind11::array_t<int64_t, pybind11::array::c_style>;

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

inline bool is_within(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }

// An argument that is an object of ours: None would be a null pointer.
inline pybind11::arg given(const char* name) { return pybind11::arg(name).none(false); }

// A property by a member function: of None it is a TypeError, where pybind11 itself would take a null pointer.
template <class Class, class Result>
auto of_object(Result (Class::*get)() const) {
  return [get](const Class& object) { return (object.*get)(); };
}

inline const int64_t* row_of(const Int64s& array, pybind11::ssize_t size, const char* message) {
  require(array.ndim() == 1 && array.size() == size, message);
  return array.data();
}

// int64 numbers of this machine's byte order, one after the other but perhaps unaligned, as in the map of a file. Never
// converted: a copy would be gone before it is read.
inline pybind11::array mapped_int64s(const pybind11::handle& object, const char* message) {
  require(pybind11::isinstance<pybind11::array>(object), message);
  const auto array = pybind11::reinterpret_borrow<pybind11::array>(object);
  require(array.ndim() == 1 && array.dtype().equal(pybind11::dtype::of<int64_t>()), message);
  require(array.size() < 2 || array.strides(0) == sizeof(int64_t), message);
  return array;
}

// Objects of a module's classes that `__new__` made and no constructor has filled: pybind11 would give one memory
// of any content at its first use, here it raises.
inline void refuse_unfilled_objects(const pybind11::module_& module) {
  for (const auto& [name, member] : pybind11::dict(module.attr("__dict__"))) {
    if (!PyType_Check(member.ptr())) continue;
    auto* type = pybind11::detail::get_type_info(reinterpret_cast<PyTypeObject*>(member.ptr()));
    if (type == nullptr) continue;
    type->operator_new = [](size_t) -> void* { throw pybind11::type_error("no content: call the class"); };
  }
}

// The number of items of a shape that memory could hold at all.
inline int64_t items_of_shape(int64_t rows, int64_t columns, const char* message) {
  constexpr int64_t most = int64_t{1} << 48;
  require(is_within(rows, 0, most) && is_within(columns, 1, most) && rows <= most / columns, message);
  return rows * columns;
}
