// Kernels for aarch64 with products of int8: matrix products beside dot products (FEAT_I8MM, FEAT_DotProd).
#include <arm_neon.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "sets.h"

namespace q3edge {
namespace neon_i8mm {
constexpr const char* kSetName = "neon-i8mm";
#include "numbers.h"
#include "step.h"
#include "simd_neon.h"
#include "step_i8mm.h"
#include "floats_neon.h"
#include "vectors.inl"
#include "attention.inl"
#include "inputs.inl"
#include "rounding.inl"
#include "products.inl"
constexpr Kernels kTable = {Set::kName, Set::kPanelRows, quantize, multiply, kAttention};
}  // namespace neon_i8mm

const Kernels& kernels_neon_i8mm() { return neon_i8mm::kTable; }
}  // namespace q3edge
