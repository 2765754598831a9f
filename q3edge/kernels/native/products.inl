// Products of rounded activations with packed matrices, over the primitives of `Set`; see kernels.h and layout.h.
//
// A group's products are summed in integers, exactly, and scaled once. Every element of the result is summed group by
// group in the order of K, whatever is computed beside it: a row's result does not depend on other rows or on threads.

// Compute ROWS rows of a panel of as many for VECTORS vectors, from `first_vector` on, of a tile.
// A group's products go into PARTS sums at once, as each has to wait for its last product.
template <unsigned BITS, size_t ROWS, size_t VECTORS, size_t PARTS>
FLATTEN static void multiply_block(const Matrix& matrix, const int8_t* x, const float* x_scales, const int32_t* x_sums,
                                   size_t tile, size_t first_vector, float* y) {
  using Ints = typename Set::Ints;
  using Floats = typename Set::Floats;
  constexpr size_t kBytes = 8 * kTileRows * BITS / 8;  // of 8 codes of K
  const MatrixShape& shape = matrix.shape;
  const size_t groups = shape.groups(), scale_bytes = shape.scale_bytes(), lane = first_vector * Set::kLanes;
  const uint8_t* span = matrix.data + tile * shape.tile_bytes();
  Floats totals[VECTORS][ROWS];
  each<VECTORS>([&](auto v) { each<ROWS>([&](auto r) { totals[v][r] = Set::zero(); }); });
  const Ints middle = Set::all((1 << (BITS - 1)) - Step<BITS>::kShift);

  for (size_t first = 0; first < groups; first += kSpan) {
    const size_t count = groups - first < kSpan ? groups - first : kSpan;
    const uint8_t* codes = span + shape.codes_offset(count) + 4 * lane;
    for (size_t group = 0; group < count; ++group) {
      Ints ints[PARTS][VECTORS][ROWS];
      each<VECTORS>([&](auto v) {
        const uint8_t* at = span + shape.zero_points_offset(count) + group * kTileRows + lane + v * Set::kLanes;
        const Ints zero = shape.symmetric ? middle : Set::zero_points(at, Step<BITS>::kShift);
        each<ROWS>([&](auto r) {
          ints[0][v][r] = Set::zero_point_products(zero, x_sums[r]);
          each<PARTS - 1>([&](auto p) { ints[p + 1][v][r] = Set::all(0); });
        });
      });
      for (size_t left = shape.group; left > 0;) {
        const size_t step = left < Step<BITS>::kCodes ? left : Step<BITS>::kCodes;
        left -= step;
        typename Step<BITS>::Sums sums[PARTS][VECTORS][ROWS];
        each<PARTS>([&](auto p) { Step<BITS>::begin(sums[p], ints[p]); });
        size_t k = 0;
        for (; k + 8 * PARTS <= step; k += 8 * PARTS, x += 8 * PARTS * ROWS) {
          each<PARTS>([&](auto p) { Step<BITS>::add(sums[p], codes + p * kBytes, x + p * 8 * ROWS); });
          codes += PARTS * kBytes;
        }
        for (; PARTS > 1 && k < step; k += 8, x += 8 * ROWS) {
          Step<BITS>::add(sums[0], codes, x);
          codes += kBytes;
        }
        each<PARTS>([&](auto p) { Step<BITS>::end(ints[p], sums[p]); });
      }
      each<VECTORS>([&](auto v) {
        const uint8_t* at = span + (group * kTileRows + lane + v * Set::kLanes) * scale_bytes;
        const Floats scale = shape.float32_scales ? Set::float32(at) : Set::float16(at);
        each<ROWS>([&](auto r) {
          Ints sum = ints[0][v][r];
          each<PARTS - 1>([&](auto p) { sum = Set::sum(sum, ints[p + 1][v][r]); });
          totals[v][r] = Set::scaled(totals[v][r], sum, scale, x_scales[r]);
        });
      });
      x_sums += ROWS;
      x_scales += ROWS;
    }
    span += shape.span_bytes(count);
  }
  each<VECTORS>([&](auto v) {
    const size_t column = tile * kTileRows + (first_vector + v) * Set::kLanes;
    if (column >= shape.rows) return;
    const size_t left = shape.rows - column;
    each<ROWS>([&](auto r) {
      float* to = y + r * shape.rows + column;
      if (left >= Set::kLanes) {
        Set::store(to, totals[v][r]);
      } else {
        Set::store(to, totals[v][r], left);
      }
    });
  });
}

template <unsigned BITS, size_t ROWS>
static void multiply_panel(const Matrix& matrix, const int8_t* x, const float* x_scales, const int32_t* x_sums,
                           Range tiles, float* y) {
  constexpr size_t kVectors = Set::vectors(ROWS);
  for (size_t tile = tiles.begin; tile < tiles.end; ++tile)
    for (size_t v = 0; v < kTileRows / Set::kLanes; v += kVectors)
      multiply_block<BITS, ROWS, kVectors, Set::parts(ROWS)>(matrix, x, x_scales, x_sums, tile, v, y);
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

static void quantize(const MatrixShape& shape, const Input& input, size_t rows, Range panels, const Activations& out) {
  quantize_panels<Set::kPanelRows, 4>(shape, input, rows, panels, out);
}
