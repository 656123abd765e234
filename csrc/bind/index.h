// The bindings of csrc/index and csrc/text in `megaphi._C`, one function per file.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

void bind_order(pybind11::module_& module);
void bind_reader(pybind11::module_& module);
void bind_megatron_order(pybind11::module_& module);
void bind_text(pybind11::module_& module);
