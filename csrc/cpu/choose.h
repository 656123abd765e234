// Which instruction set the CPU kernels use: the best that this processor has, unless a caller asks for another.
#pragma once
#include <string>
#include <vector>

#include "../kernels.h"

namespace megaphi {

// Compiled in and usable on this processor, best first; "base" is always the last.
std::vector<std::string> instruction_sets();
// The one in use.
std::string instruction_set();
// Use another from now on; false where this processor does not have it.
bool use_instruction_set(const std::string& name);
// The kernels of the one in use.
const KernelTable& cpu_kernels();

}  // namespace megaphi
