// Products of many rows by Intel's AMX, whose tiles multiply 16 rows of int8 by 16 columns in one instruction; few rows
// are left to the set with AVX512 and VNNI. Results are the same to the bit: groups' products are exact, and are scaled
// and summed in the same order.
//
// Tiles of AMX: 0 to 3 are sums (rows 0 to 15 and 16 to 31 of a panel, each with two tiles of the matrix), 4 and 5 the
// codes of x, 6 and 7 those of the matrix, which lie in memory as AMX takes them: [K / 4][16][4].

struct Amx {
  static constexpr const char* kName = "amx-int8";
  static constexpr size_t kRows = 16;  // of a tile
  static constexpr size_t kPanelRows = 2 * kRows;
  static constexpr size_t kFewRows = 8;  // up to so many, of one panel of the other set, are left to that
  static constexpr size_t kPanelsAtOnce = 8;
  static constexpr size_t kStretch = 512;  // codes of K, more or less, whose products are computed before they are scaled

  // Codes of K that one instruction takes: a power of 2, at least 8.
  static size_t step(size_t group) {
    const size_t codes = group & (~group + 1);
    return codes < 64 ? codes : 64;
  }
};

// Let the tiles of AMX have the shapes for a panel of so many rows (Intel's manual, LDTILECFG).
static void configure(size_t height, size_t step) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};  // of a row
    uint8_t rows[16] = {};
  } tiles;
  const size_t first = smaller(height, Amx::kRows), second = height > first ? height - first : 1;
  for (size_t tile = 0; tile < 8; ++tile) {
    tiles.bytes[tile] = static_cast<uint16_t>(tile == 4 || tile == 5 ? step : 64);
    tiles.rows[tile] = static_cast<uint8_t>(tile >= 6 ? step / 4 : tile < 2 || tile == 4 ? first : second);
  }
  _tile_loadconfig(&tiles);
}

// Some groups of a tile of the matrix.
struct AmxGroups {
  const uint8_t* scales;
  const uint8_t* zero_points;
  const uint8_t* packed;
  const int8_t* codes;  // as AMX takes them
};

// Subtract zero points from codes of 4 bits, which thereby have a sign: int8 [count * G / 4][16 rows][4].
static void unpack(const MatrixShape& shape, const AmxGroups& groups, size_t count, int8_t* to) {
  const __m512i low = _mm512_set1_epi8(15), four_times = _mm512_set1_epi32(0x01010101);
  const uint8_t* from = groups.packed;
  for (size_t group = 0; group < count; ++group) {
    __m512i zero = _mm512_set1_epi8(8);
    if (!shape.symmetric)
      zero = _mm512_mullo_epi32(Set::zero_points(groups.zero_points + group * kTileRows, 0), four_times);
    for (size_t k = 0; k < shape.group; k += 8, from += 64, to += 128) {
      const __m512i both = _mm512_loadu_si512(from);
      _mm512_store_si512(to, _mm512_sub_epi8(_mm512_and_si512(both, low), zero));
      _mm512_store_si512(to + 64, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(both, 4), low), zero));
    }
  }
}

// What some groups of a panel and of one or two tiles of the matrix are computed from, and what they are added to.
struct AmxBlock {
  const MatrixShape& shape;
  AmxGroups tiles[2];
  size_t count;          // of the groups
  size_t height;         // rows of the panel
  const int8_t* x;       // of these groups, as the next two
  const float* x_scales;
  const int32_t* x_sums;
  float (*totals)[2][kTileRows];
};

using AmxProducts = int32_t[kSpan][Amx::kPanelRows][2][kTileRows];

// Scale the products of COUNT groups and add them to the totals.
template <unsigned BITS, size_t TILES, size_t COUNT>
static INLINE void add_scaled(const AmxBlock& block, const AmxProducts& products) {
  const MatrixShape& shape = block.shape;
  const size_t height = block.height;
  Set::Floats scales[COUNT][TILES];
  [[maybe_unused]] Set::Ints zeros[COUNT][TILES];
  each<COUNT>([&](auto g) {
    each<TILES>([&](auto t) {
      const uint8_t* at = block.tiles[t].scales + g * kTileRows * shape.scale_bytes();
      scales[g][t] = shape.float32_scales ? Set::float32(at) : Set::float16(at);
      if constexpr (BITS == 8)
        zeros[g][t] = shape.symmetric ? Set::all(1 << (BITS - 1))
                                      : Set::zero_points(block.tiles[t].zero_points + g * kTileRows, 0);
    });
  });
  const float* x_scales = block.x_scales;
  [[maybe_unused]] const int32_t* x_sums = block.x_sums;
  float(*totals)[2][kTileRows] = block.totals;
  for (size_t r = 0; r < height; ++r) {
    Set::Floats total[TILES];
    each<TILES>([&](auto t) { total[t] = _mm512_load_ps(totals[r][t]); });
    each<COUNT>([&](auto g) {
      each<TILES>([&](auto t) {
        Set::Ints sum = _mm512_load_si512(products[g][r][t]);
        if constexpr (BITS == 8) sum = Set::sum(sum, Set::zero_point_products(zeros[g][t], x_sums[g * height + r]));
        total[t] = Set::scaled(total[t], sum, scales[g][t], x_scales[g * height + r]);
      });
    });
    each<TILES>([&](auto t) { Set::store(totals[r][t], total[t]); });
  }
}

// The sums' tile `to` += x's tile `x` times the matrix's `w`, whose codes have a sign where they are unpacked.
#define Q3EDGE_ADD_PRODUCTS(to, x, w) \
  do {                                \
    if constexpr (BITS == 4)          \
      _tile_dpbssd(to, x, w);         \
    else                              \
      _tile_dpbsud(to, x, w);         \
  } while (false)

template <unsigned BITS, size_t TILES, bool BOTH_HALVES>
static void add_block(const AmxBlock& block) {
  constexpr size_t kStride = 2 * kTileRows * sizeof(int32_t);
  alignas(64) AmxProducts products;
  const size_t group_size = block.shape.group, step = Amx::step(group_size);
  const int8_t *x = block.x, *first = block.tiles[0].codes, *second = block.tiles[1].codes;
  for (size_t group = 0; group < block.count; ++group) {
    _tile_zero(0);
    if constexpr (TILES == 2) _tile_zero(1);
    if constexpr (BOTH_HALVES) _tile_zero(2);
    if constexpr (BOTH_HALVES && TILES == 2) _tile_zero(3);
    for (size_t k = 0; k < group_size; k += step) {
      _tile_loadd(4, x, step);
      _tile_loadd(6, first, 64);
      Q3EDGE_ADD_PRODUCTS(0, 4, 6);
      if constexpr (TILES == 2) {
        _tile_loadd(7, second, 64);
        Q3EDGE_ADD_PRODUCTS(1, 4, 7);
      }
      if constexpr (BOTH_HALVES) {
        _tile_loadd(5, x + Amx::kRows * step, step);
        Q3EDGE_ADD_PRODUCTS(2, 5, 6);
        if constexpr (TILES == 2) Q3EDGE_ADD_PRODUCTS(3, 5, 7);
      }
      x += step * block.height;
      first += step * kTileRows;
      second += step * kTileRows;
    }
    _tile_stored(0, products[group][0][0], kStride);
    if constexpr (TILES == 2) _tile_stored(1, products[group][0][1], kStride);
    if constexpr (BOTH_HALVES) _tile_stored(2, products[group][Amx::kRows][0], kStride);
    if constexpr (BOTH_HALVES && TILES == 2) _tile_stored(3, products[group][Amx::kRows][1], kStride);
  }
  switch (block.count) {
    case 1: return add_scaled<BITS, TILES, 1>(block, products);
    case 2: return add_scaled<BITS, TILES, 2>(block, products);
    case 3: return add_scaled<BITS, TILES, 3>(block, products);
    default: return add_scaled<BITS, TILES, kSpan>(block, products);
  }
}

template <unsigned BITS>
static void add_block(const AmxBlock& block, bool two_tiles) {
  if (block.height > Amx::kRows)
    two_tiles ? add_block<BITS, 2, true>(block) : add_block<BITS, 1, true>(block);
  else
    two_tiles ? add_block<BITS, 2, false>(block) : add_block<BITS, 1, false>(block);
}

// Compute y of a tile of the matrix, and of the next one if `two_tiles`, and of at most kPanelsAtOnce panels.
template <unsigned BITS>
static void multiply_tiles(const Matrix& matrix, const Activations& x, size_t rows, Range panels, size_t tile,
                           bool two_tiles, const float* summand, float* y) {
  alignas(64) int8_t unpacked[2][kSpan * kMostCodes * kTileRows];
  alignas(64) float totals[Amx::kPanelsAtOnce * Amx::kPanelRows][2][kTileRows];
  const MatrixShape& shape = matrix.shape;
  const size_t groups = shape.groups(), tiles = two_tiles ? 2 : 1, step = Amx::step(shape.group);
  const size_t at_once = smaller(kSpan, Amx::kStretch / shape.group);
  const size_t begin = panels.begin * Amx::kPanelRows, end = smaller(panels.end * Amx::kPanelRows, rows);
  memset(totals, 0, (end - begin) * sizeof totals[0]);
  AmxBlock block{shape, {}, 0, 0, nullptr, nullptr, nullptr, nullptr};
  const uint8_t* span = matrix.data + tile * shape.tile_bytes();
  for (size_t group = 0; group < groups; group += block.count) {
    const size_t in_span = group % kSpan, span_groups = smaller(groups - (group - in_span), kSpan);
    block.count = smaller(span_groups - in_span, at_once);
    for (size_t t = 0; t < tiles; ++t) {
      const uint8_t* from = span + t * shape.tile_bytes();
      AmxGroups& found = block.tiles[t];
      found.scales = from + in_span * kTileRows * shape.scale_bytes();
      found.zero_points = from + shape.zero_points_offset(span_groups) + in_span * kTileRows;
      found.packed = from + shape.codes_offset(span_groups) + in_span * shape.group_bytes();
      found.codes = BITS == 4 ? unpacked[t] : reinterpret_cast<const int8_t*>(found.packed);
      if constexpr (BITS == 4) unpack(shape, found, block.count, unpacked[t]);
    }
    __asm__ volatile("" ::: "memory");  // gcc 12 does not know that AMX's loads read memory
    for (size_t first = begin; first < end; first += Amx::kPanelRows) {
      const size_t height = smaller(end - first, Amx::kPanelRows);
      if (height != block.height) configure(height, step);
      block.height = height;
      block.x = x.codes + first * shape.width + group * shape.group * height;
      block.x_scales = x.scales + first * groups + group * height;
      block.x_sums = x.negative_sums + first * groups + group * height;
      block.totals = totals + (first - begin);
      add_block<BITS>(block, two_tiles);
    }
    if (in_span + block.count == span_groups) span += shape.span_bytes(span_groups);
  }
  const size_t column = tile * kTileRows, columns = smaller(shape.rows - column, tiles * kTileRows);
  for (size_t row = begin; row < end; ++row) {
    const size_t at = row * shape.rows + column;
    for (size_t i = 0; i < columns; i += Vec::kLanes) {
      Floats found = Vec::load(totals[row - begin][0] + i);
      if (summand != nullptr) found = Vec::add(found, load_up_to(summand + at + i, columns - i));
      store_up_to(y + at + i, found, columns - i);
    }
  }
}

static void multiply(const Matrix& matrix, const Activations& x, size_t rows, Range panels, Range tiles,
                     const float* summand, float* y) {
  if (rows <= Amx::kFewRows) return kernels_avx512_vnni().multiply(matrix, x, rows, panels, tiles, summand, y);
  for (size_t panel = panels.begin; panel < panels.end; panel += Amx::kPanelsAtOnce) {
    const Range some{panel, smaller(panel + Amx::kPanelsAtOnce, panels.end)};
    for (size_t tile = tiles.begin; tile < tiles.end; tile += 2) {
      const bool two_tiles = tile + 1 < tiles.end;
      if (matrix.shape.bits == 4)
        multiply_tiles<4>(matrix, x, rows, some, tile, two_tiles, summand, y);
      else
        multiply_tiles<8>(matrix, x, rows, some, tile, two_tiles, summand, y);
    }
  }
  _tile_release();
}

static void quantize(const MatrixShape& shape, const Input& input, size_t rows, Range panels, const Activations& out) {
  if (rows <= Amx::kFewRows) return kernels_avx512_vnni().quantize(shape, input, rows, panels, out);
  switch (Amx::step(shape.group)) {
    case 8: return quantize_panels<Amx::kPanelRows, 8>(shape, input, rows, panels, out);
    case 16: return quantize_panels<Amx::kPanelRows, 16>(shape, input, rows, panels, out);
    case 32: return quantize_panels<Amx::kPanelRows, 32>(shape, input, rows, panels, out);
    default: return quantize_panels<Amx::kPanelRows, 64>(shape, input, rows, panels, out);
  }
}
