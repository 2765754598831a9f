// Kernels for x86-64 with AVX512 (F, BW, VL, DQ) and its VNNI.
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "sets.h"

namespace q3edge {
namespace avx512_vnni {
#include "numbers.h"
#include "step.h"
#include "simd_avx512.h"
#include "floats_avx512.h"
#include "vectors.inl"
#include "attention.inl"
#include "inputs.inl"
#include "rounding.inl"
#include "products.inl"
constexpr Kernels kTable = {Set::kName, Set::kPanelRows, quantize, multiply, kAttention};
}  // namespace avx512_vnni

const Kernels& kernels_avx512_vnni() { return avx512_vnni::kTable; }
}  // namespace q3edge
