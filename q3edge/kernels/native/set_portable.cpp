// Kernels for any CPU, in plain C++.
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "sets.h"

namespace q3edge {
namespace portable {
#include "numbers.h"
#include "step.h"
#include "simd_portable.h"
#include "floats_portable.h"
#include "vectors.inl"
#include "attention.inl"
#include "inputs.inl"
#include "rounding.inl"
#include "products.inl"
constexpr Kernels kTable = {Set::kName, Set::kPanelRows, quantize, multiply, kAttention};
}  // namespace portable

const Kernels& kernels_portable() { return portable::kTable; }
}  // namespace q3edge
