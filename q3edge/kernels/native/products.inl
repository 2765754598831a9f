// Products of rounded activations with packed matrices, over the primitives of `Set`; see kernels.h and layout.h.
//
// A group's products are summed in integers, exactly, and scaled once. Every element of the result is summed group by
// group in the order of K, whatever is computed beside it: a row's result does not depend on other rows or on threads.

constexpr size_t kStep = 32;  // codes of K whose products may be summed before they are widened (Step::Sums)

// Compute ROWS rows of a panel of as many for the `vector`-th lanes of TILES tiles from `tile` on.
template <unsigned BITS, size_t ROWS, size_t TILES>
static void multiply_block(const Matrix& matrix, const int8_t* x, const float* x_scales, const int32_t* x_sums,
                           size_t tile, size_t first_vector, float* y) {
  constexpr size_t kVectors = Set::kVectors;
  const MatrixShape& shape = matrix.shape;
  const size_t stride = shape.tile_bytes(), groups = shape.groups(), scale_bytes = shape.scale_bytes();
  const uint8_t* codes[TILES];
  const uint8_t* scales[TILES];
  const uint8_t* zero_points[TILES];
  for (size_t t = 0; t < TILES; ++t) {
    const uint8_t* begin = matrix.data + (tile + t) * stride;
    const size_t lane = first_vector * Set::kLanes;
    codes[t] = begin + 4 * lane;
    scales[t] = begin + shape.scales_offset() + lane * scale_bytes;
    zero_points[t] = begin + shape.zero_points_offset() + lane;
  }
  typename Set::Floats totals[ROWS][TILES][kVectors];
  each<ROWS>([&](auto r) {
    each<TILES>([&](auto t) { each<kVectors>([&](auto v) { totals[r][t][v] = Set::zero(); }); });
  });
  const typename Set::Ints middle = Set::all((1 << (BITS - 1)) - Step<BITS>::kShift);

  for (size_t group = 0; group < groups; ++group) {
    typename Set::Ints ints[ROWS][TILES][kVectors];
    each<TILES>([&](auto t) {
      each<kVectors>([&](auto v) {
        const typename Set::Ints zero =
            shape.symmetric ? middle
                            : Set::zero_points(zero_points[t] + group * kTileRows + v * Set::kLanes, Step<BITS>::kShift);
        each<ROWS>([&](auto r) { ints[r][t][v] = Set::zero_point_products(zero, x_sums[group * ROWS + r]); });
      });
    });
    for (size_t left = shape.group; left > 0;) {
      const size_t step = left < kStep ? left : kStep;
      left -= step;
      typename Step<BITS>::Sums sums[ROWS][TILES][kVectors];
      each<ROWS>([&](auto r) {
        each<TILES>([&](auto t) { each<kVectors>([&](auto v) { sums[r][t][v] = Step<BITS>::begin(ints[r][t][v]); }); });
      });
      for (size_t k = 0; k < step; k += 8, x += 8 * ROWS)
        each<TILES>([&](auto t) {
          each<kVectors>([&](auto v) {
            const uint8_t* at = codes[t] + v * Set::kLanes * 4;
            const auto first = Step<BITS>::first(at), second = Step<BITS>::second(at);
            each<ROWS>([&](auto r) { sums[r][t][v] = Step<BITS>::dot(sums[r][t][v], first, x + 4 * r); });
            each<ROWS>([&](auto r) { sums[r][t][v] = Step<BITS>::dot(sums[r][t][v], second, x + 4 * (ROWS + r)); });
          });
          codes[t] += 8 * kTileRows * BITS / 8;
        });
      each<ROWS>([&](auto r) {
        each<TILES>([&](auto t) {
          each<kVectors>([&](auto v) { ints[r][t][v] = Step<BITS>::end(ints[r][t][v], sums[r][t][v]); });
        });
      });
    }
    each<TILES>([&](auto t) {
      each<kVectors>([&](auto v) {
        const uint8_t* at = scales[t] + (group * kTileRows + v * Set::kLanes) * scale_bytes;
        const typename Set::Floats scale = shape.float32_scales ? Set::float32(at) : Set::float16(at);
        each<ROWS>([&](auto r) {
          totals[r][t][v] = Set::scaled(totals[r][t][v], ints[r][t][v], scale, x_scales[group * ROWS + r]);
        });
      });
    });
  }
  each<ROWS>([&](auto r) {
    each<TILES>([&](auto t) {
      each<kVectors>([&](auto v) {
        const size_t column = (tile + t) * kTileRows + (first_vector + v) * Set::kLanes;
        if (column >= shape.rows) return;
        float* to = y + r * shape.rows + column;
        if (column + Set::kLanes <= shape.rows) {
          Set::store(to, totals[r][t][v]);
        } else {
          Set::store(to, totals[r][t][v], shape.rows - column);
        }
      });
    });
  });
}

template <unsigned BITS, size_t ROWS>
static void multiply_panel(const Matrix& matrix, const int8_t* x, const float* x_scales, const int32_t* x_sums,
                           Range tiles, float* y) {
  constexpr size_t kTiles = ROWS == 1 ? Set::kTilesOfOneRow : ROWS <= Set::kFewRows ? Set::kTilesOfFewRows : 1;
  size_t tile = tiles.begin;
  for (; tile + kTiles <= tiles.end; tile += kTiles)
    for (size_t v = 0; v < kTileRows / Set::kLanes; v += Set::kVectors)
      multiply_block<BITS, ROWS, kTiles>(matrix, x, x_scales, x_sums, tile, v, y);
  for (; tile < tiles.end; ++tile)
    for (size_t v = 0; v < kTileRows / Set::kLanes; v += Set::kVectors)
      multiply_block<BITS, ROWS, 1>(matrix, x, x_scales, x_sums, tile, v, y);
}

template <unsigned BITS, size_t ROWS>
static void multiply_rows(size_t rows, const Matrix& matrix, const int8_t* x, const float* x_scales,
                          const int32_t* x_sums, Range tiles, float* y) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return multiply_panel<BITS, ROWS>(matrix, x, x_scales, x_sums, tiles, y);
    multiply_rows<BITS, ROWS - 1>(rows, matrix, x, x_scales, x_sums, tiles, y);
  }
}

// to += summand, of `rows` rows of `stride` values each the first `columns`.
static void add_rows(float* to, const float* summand, size_t rows, size_t stride, size_t columns) {
  for (size_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < columns; i += Vec::kLanes) {
      float* at = to + r * stride + i;
      store_up_to(at, Vec::add(load_up_to(at, columns - i), load_up_to(summand + r * stride + i, columns - i)),
                  columns - i);
    }
}

static void multiply(const Matrix& matrix, const Activations& x, size_t rows, Range panels, Range tiles,
                     const float* summand, float* y) {
  const MatrixShape& shape = matrix.shape;
  const size_t all = Set::kPanelRows;
  // A few tiles stay in the cache while all panels pass.
  constexpr size_t kTilesAtOnce = 4;
  for (size_t tile = tiles.begin; tile < tiles.end; tile += kTilesAtOnce) {
    const Range some{tile, tile + kTilesAtOnce < tiles.end ? tile + kTilesAtOnce : tiles.end};
    for (size_t panel = panels.begin; panel < panels.end; ++panel) {
      const size_t first = panel * all, count = rows - first < all ? rows - first : all;
      const int8_t* codes = x.codes + first * shape.width;
      const float* scales = x.scales + first * shape.groups();
      const int32_t* sums = x.negative_sums + first * shape.groups();
      float* to = y + first * shape.rows;
      if (shape.bits == 4) {
        multiply_rows<4, Set::kPanelRows>(count, matrix, codes, scales, sums, some, to);
      } else {
        multiply_rows<8, Set::kPanelRows>(count, matrix, codes, scales, sums, some, to);
      }
      const size_t column = some.begin * kTileRows, end = some.end * kTileRows;
      if (summand != nullptr)
        add_rows(to + column, summand + first * shape.rows + column, count, shape.rows,
                 (end < shape.rows ? end : shape.rows) - column);
    }
  }
}

// Round a group as onnxruntime does: to 127ths of its largest magnitude, halves to even.
static void quantize(const MatrixShape& shape, const Input& input, size_t rows, Range panels, const Activations& out) {
  const size_t all = Set::kPanelRows, groups = shape.groups();
  int8_t codes[256];
  float values[256];
  for (size_t panel = panels.begin; panel < panels.end; ++panel) {
    const size_t first = panel * all, count = rows - first < all ? rows - first : all;
    for (size_t r = 0; r < count; ++r) {
      const float by = row_factor(input, first + r, shape.width);
      for (size_t group = 0; group < groups; ++group) {
        const float* from = row_part(input, first + r, shape.width, by, group * shape.group, shape.group, values);
        const float largest = Set::largest(from, shape.group), scale = largest / 127.0f;
        const float factor = largest > 0.0f ? 127.0f / largest : 0.0f;
        int32_t sum = 0;
        for (size_t k = 0; k < shape.group; k += 16)
          sum += Set::rounded(from + k, factor, codes + k, shape.group - k < 16 ? shape.group - k : 16);
        int8_t* to = out.codes + first * shape.width + (group * shape.group * count) + 4 * r;
        for (size_t k = 0; k < shape.group; k += 4, to += 4 * count) {
          to[0] = codes[k];
          to[1] = codes[k + 1];
          to[2] = codes[k + 2];
          to[3] = codes[k + 3];
        }
        out.scales[first * groups + group * count + r] = scale;
        out.negative_sums[first * groups + group * count + r] = -sum;
      }
    }
  }
}

static const Kernels kTable = {Set::kName, Set::kPanelRows, quantize, multiply, kAttention};
