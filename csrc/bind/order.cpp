// Binds csrc/index to Python: keyed order of the data.
#include "index.h"

void bind_order(pybind11::module_&) {}
