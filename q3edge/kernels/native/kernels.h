// What an instruction set offers: a table of functions, one table for each set (set_*.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"
#include "layout.h"

namespace q3edge {

// Work shared out to threads: `body(data, i)` for each i below `count`, in any order.
struct ParallelFor {
  void (*run)(void* pool, size_t count, void (*body)(void*, size_t), void* data);
  void* pool;
  size_t threads;  // about how many there are
};

// Rows of activations x [M, K] rounded to int8 in groups of K: x = code * scale.
// Rows come in panels of `Kernels::panel_rows`, the last one with what is left: of a panel of h rows
//   codes          [K / 4][h][4]
//   scales         [K / G][h]
//   negative_sums  [K / G][h]: minus the sum of a group's codes
struct Activations {
  int8_t* codes;
  float* scales;
  int32_t* negative_sums;
};

// What a product's rows are: x, float32 [M, K]; or x normed, x * norm / sqrt(mean of squares + epsilon); or
// silu(x) * up, with up float32 [M, K], or where it is null in the second half of x's rows, float32 [M, 2 K].
// Where there are `sources`, row i is made of x's row sources[i].
struct Input {
  const float* x;
  bool gated;
  const float* up;
  const float* norm;  // float32 [K]; null: not normed
  float epsilon;
  const uint32_t* sources = nullptr;  // [M]
};

struct Range {
  size_t begin, end;
};

// Blocks of `size` that `count` things fill, the last one with what is left; and the things of one of them.
constexpr size_t blocks(size_t count, size_t size) { return (count + size - 1) / size; }
constexpr Range part(size_t block, size_t size, size_t count) {
  return {block * size, count - block * size < size ? count : (block + 1) * size};
}
constexpr size_t kBlocksPerThread = 4;  // so many that a late thread does not keep the others waiting

struct Kernels {
  const char* name;
  size_t panel_rows;
  // Round rows of the panels `panels`. They are multiplied as rounded: of as many rows in all.
  void (*quantize)(const MatrixShape& shape, const Input& input, size_t rows, Range panels, const Activations& out);
  // Compute y[:, tiles] = x W.T + summand of the panels `panels`: float32 [M, N]; the summand may be null.
  void (*multiply)(const Matrix& matrix, const Activations& x, size_t rows, Range panels, Range tiles,
                   const float* summand, float* y);
  AttentionKernels attention;
};

// Tables of the sets that this library was built with and this CPU has, the best first; the last is portable C++.
struct KernelList {
  const Kernels* const* sets;
  size_t count;
};
KernelList kernels();

// Bytes of scratch that `multiply_all` needs for M rows.
size_t product_scratch(const MatrixShape& shape, size_t rows);
// Compute y = x W.T + summand: summand (or null) and y float32 [M, N]; scratch at a multiple of 64.
void multiply_all(const Kernels& kernels, const Matrix& matrix, const Input& input, size_t rows, const float* summand,
                  float* y, void* scratch, const ParallelFor& parallel);

}  // namespace q3edge
