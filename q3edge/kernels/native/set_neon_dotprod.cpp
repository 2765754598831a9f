// Kernels for aarch64 with products of int8: dot products (FEAT_DotProd).
#include <arm_neon.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "sets.h"

namespace q3edge {
namespace neon_dotprod {
constexpr const char* kSetName = "neon-dotprod";
#include "numbers.h"
#include "step.h"
#include "simd_neon.h"
#include "step_dotprod.h"
#include "floats_neon.h"
#include "vectors.inl"
#include "attention.inl"
#include "inputs.inl"
#include "rounding.inl"
#include "products.inl"
constexpr Kernels kTable = {Set::kName, Set::kPanelRows, quantize, multiply, kAttention};
}  // namespace neon_dotprod

const Kernels& kernels_neon_dotprod() { return neon_dotprod::kTable; }
}  // namespace q3edge
