// The sets, one function each, from set_*.cpp. Those that were built are told by macros (q3edge/kernels/build.py).
#pragma once

#include "kernels.h"

namespace q3edge {
const Kernels& kernels_portable();
const Kernels& kernels_amx_int8();
const Kernels& kernels_avx512_vnni();
const Kernels& kernels_avx_vnni();
const Kernels& kernels_avx2();
const Kernels& kernels_neon_dotprod();
const Kernels& kernels_neon_i8mm();
}  // namespace q3edge
