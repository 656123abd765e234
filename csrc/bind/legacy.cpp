// Binds csrc/index to Python: Megatron's order.
#include "index.h"

void bind_legacy(pybind11::module_&) {}
