// Kernels for any CPU, in plain C++.
#include <string.h>

#include "kernels.h"
#include "sets.h"

namespace q3edge {
namespace portable {
#include "numbers.h"
#include "simd_portable.h"
#include "products.inl"
}  // namespace portable

const Kernels& kernels_portable() { return portable::kTable; }
}  // namespace q3edge
