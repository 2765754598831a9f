// Sharing out a product to threads.
#include "kernels.h"

namespace q3edge {
namespace {

constexpr size_t kPanelsAtOnce = 8;   // of a block that one thread computes
constexpr size_t kTilesAtOnce = 8;

struct Product {
  const Kernels& kernels;
  const Matrix& matrix;
  const Input& input;
  size_t rows, panels;
  const float* summand;
  float* y;
  Activations activations;
  size_t panels_at_once, tiles_at_once, panel_blocks;

  Range some_panels(size_t block) const { return part(block, panels_at_once, panels); }
  Range some_tiles(size_t block) const { return part(block, tiles_at_once, matrix.shape.tiles()); }
};

void round_panels(void* data, size_t block) {
  const auto& product = *static_cast<const Product*>(data);
  product.kernels.quantize(product.matrix.shape, product.input, product.rows, product.some_panels(block),
                           product.activations);
}

void multiply_panels(void* data, size_t block) {
  const auto& product = *static_cast<const Product*>(data);
  product.kernels.multiply(product.matrix, product.activations, product.rows,
                           product.some_panels(block % product.panel_blocks),
                           product.some_tiles(block / product.panel_blocks), product.summand, product.y);
}

}  // namespace

size_t product_scratch(const MatrixShape& shape, size_t rows) {
  return aligned(rows * shape.width) + aligned(rows * shape.groups() * sizeof(float)) +
         aligned(rows * shape.groups() * sizeof(int32_t));
}

void multiply_all(const Kernels& kernels, const Matrix& matrix, const Input& input, size_t rows, const float* summand,
                  float* y, void* scratch, const ParallelFor& parallel) {
  if (rows == 0) return;
  const MatrixShape& shape = matrix.shape;
  auto* bytes = static_cast<uint8_t*>(scratch);
  const size_t codes = aligned(rows * shape.width), scales = aligned(rows * shape.groups() * sizeof(float));
  Product product{kernels, matrix, input, rows, blocks(rows, kernels.panel_rows), summand, y,
                  {reinterpret_cast<int8_t*>(bytes), reinterpret_cast<float*>(bytes + codes),
                   reinterpret_cast<int32_t*>(bytes + codes + scales)},
                  kPanelsAtOnce, kTilesAtOnce, 0};
  product.panel_blocks = blocks(product.panels, product.panels_at_once);
  if (product.panel_blocks == 1) {
    round_panels(&product, 0);
    const size_t shared = blocks(shape.tiles(), parallel.threads * kBlocksPerThread);
    product.tiles_at_once = shared < kTilesAtOnce ? kTilesAtOnce : blocks(shared, 4) * 4;
  } else {
    parallel.run(parallel.pool, product.panel_blocks, round_panels, &product);
  }
  parallel.run(parallel.pool, product.panel_blocks * blocks(shape.tiles(), product.tiles_at_once), multiply_panels,
               &product);
}

}  // namespace q3edge
