// Packing of a matrix from the tensors of onnxruntime's MatMulNBits.
#pragma once

#include "layout.h"

namespace q3edge {

// As the operator's inputs have them: codes uint8 [N, K/G, G*bits/8], the first in the lowest bits; scales [N, K/G];
// zero points uint8 [N, ceil(K/G*bits/8)], null where the matrix is symmetric.
struct Unpacked {
  const uint8_t* codes;
  const float* scales;
  const uint8_t* zero_points;
};

// Tell whether float16 has all of `count` values exactly.
bool are_float16(const float* values, size_t count);
// Write tiles `begin` to `end` of the packed form into `out`, which has shape.bytes() bytes for all tiles.
void pack(const MatrixShape& shape, const Unpacked& from, size_t begin, size_t end, uint8_t* out);

}  // namespace q3edge
