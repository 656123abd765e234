// Which instruction set the CPU kernels use: the best that this processor has, unless a caller asks for another.
#pragma once
#include <string>
#include <vector>

#include "../kernels.h"

namespace megaphi {

// Compiled in and usable on this processor, best first; "base" is always the last.
std::vector<std::string> instruction_sets();
// The instruction set in use.
std::string instruction_set();
// Use another from now on; false if this processor lacks it.
bool use_instruction_set(const std::string& name);
// The kernels of the instruction set in use.
const KernelTable& cpu_kernels();

}  // namespace megaphi
