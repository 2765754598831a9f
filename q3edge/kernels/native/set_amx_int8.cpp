// Kernels for x86-64 with AMX for int8: products of many rows; all else is that of the set with AVX512 and its VNNI.
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "sets.h"

namespace q3edge {
namespace amx_int8 {
#include "numbers.h"
#include "step.h"
#include "simd_avx512.h"
#include "floats_avx512.h"
#include "vectors.inl"
#include "inputs.inl"
#include "rounding.inl"
#include "amx.inl"

constexpr AttentionKernels kAttention = {
    [](const AttentionShape& shape, size_t threads) { return kernels_avx512_vnni().attention.scratch(shape, threads); },
    [](const AttentionCall& call, const ParallelFor& parallel) {
      kernels_avx512_vnni().attention.attend(call, parallel);
    }};
constexpr Kernels kTable = {Amx::kName, Amx::kPanelRows, quantize, multiply, kAttention};
}  // namespace amx_int8

const Kernels& kernels_amx_int8() { return amx_int8::kTable; }
}  // namespace q3edge
