// Binds csrc/index to Python: reading tokens and document boundaries.
#include "index.h"

void bind_reader(pybind11::module_&) {}
