// Kernels for x86-64 with AVX2, FMA, F16C and AVX-VNNI.
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "sets.h"

namespace q3edge {
namespace avx_vnni {
constexpr const char* kSetName = "avx-vnni";
constexpr size_t kSetPanelRows = 4, kSetParts = 4;
#include "numbers.h"
#include "step.h"
#include "simd_avx2.h"
#include "step_avx_vnni.h"
#include "floats_avx2.h"
#include "vectors.inl"
#include "attention.inl"
#include "inputs.inl"
#include "rounding.inl"
#include "products.inl"
constexpr Kernels kTable = {Set::kName, Set::kPanelRows, quantize, multiply, kAttention};
}  // namespace avx_vnni

const Kernels& kernels_avx_vnni() { return avx_vnni::kTable; }
}  // namespace q3edge
