// Kernels for x86-64 with AVX2, FMA and F16C.
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "sets.h"

namespace q3edge {
namespace avx2 {
constexpr const char* kSetName = "avx2";
constexpr size_t kSetPanelRows = 4, kSetParts = 2;
#include "numbers.h"
#include "step.h"
#include "simd_avx2.h"
#include "step_maddubs.h"
#include "floats_avx2.h"
#include "vectors.inl"
#include "attention.inl"
#include "inputs.inl"
#include "rounding.inl"
#include "products.inl"
constexpr Kernels kTable = {Set::kName, Set::kPanelRows, quantize, multiply, kAttention};
}  // namespace avx2

const Kernels& kernels_avx2() { return avx2::kTable; }
}  // namespace q3edge
