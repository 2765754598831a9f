// Packed form of a block-quantized matrix W [N, K]: one layout, which all instruction sets read.
//
// Rows come in tiles of 16, the groups of a tile in spans of 4 (the last one: of what is left), so that a matrix is read
// in the order of its bytes. A span of n groups holds, each part beginning at a multiple of 64 bytes:
//   scales       [n][16 rows], float16 or float32
//   zero points  [n][16 rows], uint8; absent where the matrix is symmetric
//   codes        [n * G / 4 quads][16 rows][4 codes], a byte each; of 4 bits the quads 2i and 2i+1 share bytes (low, high)
// A weight is (code - zero point) * scale. Rows beyond N have scale 0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace q3edge {

constexpr size_t kTileRows = 16;
constexpr size_t kAlignment = 64;
constexpr size_t kMostCodes = 256;  // of a group
constexpr size_t kSpan = 4;         // groups

constexpr size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Shape and types of a packed matrix.
struct MatrixShape {
  size_t rows;           // N
  size_t width;          // K, a multiple of `group`
  size_t group;          // G: codes that share a scale, a multiple of 8, at most 256
  unsigned bits;         // 4 or 8
  bool symmetric;        // all zero points are 2^(bits - 1)
  bool float32_scales;   // else float16

  constexpr bool valid() const {
    return rows > 0 && rows <= (size_t{1} << 31) && width <= (size_t{1} << 31) && (bits == 4 || bits == 8) &&
           group >= 8 && group <= kMostCodes && group % 8 == 0 && width >= group && width % group == 0;
  }
  constexpr size_t groups() const { return width / group; }
  constexpr size_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  constexpr size_t scale_bytes() const { return float32_scales ? 4 : 2; }
  constexpr size_t group_bytes() const { return group * kTileRows * bits / 8; }
  // Of a span of so many groups: where its zero points and its codes begin, and its size.
  constexpr size_t zero_points_offset(size_t count) const { return aligned(count * kTileRows * scale_bytes()); }
  constexpr size_t codes_offset(size_t count) const {
    return zero_points_offset(count) + (symmetric ? 0 : aligned(count * kTileRows));
  }
  constexpr size_t span_bytes(size_t count) const { return codes_offset(count) + count * group_bytes(); }
  constexpr size_t tile_bytes() const {
    const size_t left = groups() % kSpan;
    return groups() / kSpan * span_bytes(kSpan) + (left == 0 ? 0 : span_bytes(left));
  }
  constexpr size_t bytes() const { return tiles() * tile_bytes(); }
};

struct Matrix {
  MatrixShape shape;
  const uint8_t* data;  // shape.bytes() bytes at a multiple of 64
};

}  // namespace q3edge
