// Attention of many queries: products in register tiles. Queries lie transposed, as panels of vectors, so that scores
// and weights come out with queries along the lanes, and nothing is summed across lanes.

constexpr size_t kBlock = 64;  // keys at a time
constexpr size_t kPanel = Vec::kWide * Vec::kLanes;

// Vectors side by side of a panel of queries, or of a slab of values, with `left` to come.
static inline size_t panel_vectors(size_t left) { return left <= Vec::kLanes ? 1 : Vec::kWide; }

// ROWS keys times VECTORS vectors of queries: keys [ROWS, stride], panel [size][lanes], scores [ROWS][lanes].
template <int ROWS, int VECTORS>
static inline void score_tile(const float* keys, size_t stride, const float* panel, size_t size, float* scores) {
  constexpr size_t kWidth = VECTORS * Vec::kLanes;
  Floats sums[ROWS][VECTORS];
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) sums[i][v] = Vec::all(0.0f);
  for (size_t d = 0; d < size; ++d) {
    Floats queries[VECTORS];
    for (int v = 0; v < VECTORS; ++v) queries[v] = Vec::load(panel + d * kWidth + v * Vec::kLanes);
    for (int i = 0; i < ROWS; ++i) {
      const Floats key = Vec::all(keys[i * stride + d]);
      for (int v = 0; v < VECTORS; ++v) sums[i][v] = Vec::mul_add(key, queries[v], sums[i][v]);
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) Vec::store(scores + i * kWidth + v * Vec::kLanes, sums[i][v]);
}

// Scores of `count` keys.
template <int ROWS, int VECTORS>
static inline void score(const float* keys, size_t stride, size_t count, const float* panel, size_t size,
                         float* scores) {
  for (; count >= ROWS; count -= ROWS, keys += ROWS * stride, scores += ROWS * VECTORS * Vec::kLanes)
    score_tile<ROWS, VECTORS>(keys, stride, panel, size, scores);
  if constexpr (ROWS > 1)
    if (count > 0) score<ROWS / 2, VECTORS>(keys, stride, count, panel, size, scores);
}

// ROWS queries times VECTORS vectors of values: weights [count][width], slab [count][lanes]; out[i] = factor * out[i] +
// the sum.
template <int ROWS, int VECTORS>
static inline void value_tile(const float* weights, size_t width, const float* slab, size_t count, const float* factors,
                              float* out, size_t stride) {
  constexpr size_t kWidth = VECTORS * Vec::kLanes;
  Floats sums[ROWS][VECTORS];
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v)
      sums[i][v] = Vec::mul(Vec::load(out + i * stride + v * Vec::kLanes), Vec::all(factors[i]));
  for (size_t t = 0; t < count; ++t) {
    Floats values[VECTORS];
    for (int v = 0; v < VECTORS; ++v) values[v] = Vec::load(slab + t * kWidth + v * Vec::kLanes);
    for (int i = 0; i < ROWS; ++i) {
      const Floats weight = Vec::all(weights[t * width + i]);
      for (int v = 0; v < VECTORS; ++v) sums[i][v] = Vec::mul_add(weight, values[v], sums[i][v]);
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) Vec::store(out + i * stride + v * Vec::kLanes, sums[i][v]);
}

// Weighted values of `queries` queries; query i sees the first `seen[i]` of the keys, more from query to query.
template <int ROWS, int VECTORS>
static inline void add_values(const float* weights, size_t width, const float* slab, const float* seen, size_t queries,
                              const float* factors, float* out, size_t stride) {
  for (; queries >= ROWS;
       queries -= ROWS, weights += ROWS, seen += ROWS, factors += ROWS, out += ROWS * stride)
    value_tile<ROWS, VECTORS>(weights, width, slab, static_cast<size_t>(seen[ROWS - 1]), factors, out, stride);
  if constexpr (ROWS > 1)
    if (queries > 0) add_values<ROWS / 2, VECTORS>(weights, width, slab, seen, queries, factors, out, stride);
}

// Go on with a panel of queries over `count` keys, of which query i sees the first seen[i], in ascending order.
template <int VECTORS>
static void gather_panel(const float* panel, size_t size, const float* keys, size_t key_stride, const float* slabs,
                         size_t count, const float* seen, size_t queries, const State& state, size_t stride,
                         float* scores) {
  constexpr size_t kWidth = VECTORS * Vec::kLanes;
  score<Vec::kTileRows, VECTORS>(keys, key_stride, count, panel, size, scores);
  for (auto t = static_cast<size_t>(seen[0]); t < count; ++t)
    for (size_t i = 0; i < kWidth; i += Vec::kLanes)
      Vec::store(scores + t * kWidth + i, Vec::where_less(Vec::all(static_cast<float>(t)), Vec::load(seen + i),
                                                          Vec::load(scores + t * kWidth + i), Vec::all(kMasked)));
  float factors[kWidth];
  for (size_t i = 0; i < kWidth; i += Vec::kLanes) {
    const Floats before = Vec::load(state.largest + i);
    Floats top = before;
    for (size_t t = 0; t < count; ++t) top = Vec::max(top, Vec::load(scores + t * kWidth + i));
    Floats sum = Vec::all(0.0f);
    for (size_t t = 0; t < count; ++t) {
      const Floats weight = power_of_2(Vec::sub(Vec::load(scores + t * kWidth + i), top));
      Vec::store(scores + t * kWidth + i, weight);
      sum = Vec::add(sum, weight);
    }
    const Floats factor = power_of_2(Vec::sub(before, top));
    Vec::store(factors + i, factor);
    Vec::store(state.largest + i, top);
    Vec::store(state.sum + i, Vec::mul_add(Vec::load(state.sum + i), factor, sum));
  }
  for (size_t d = 0; d < size; d += kPanel, slabs += kBlock * kPanel) {
    if (panel_vectors(size - d) == 1)
      add_values<Vec::kTileRows, 1>(scores, kWidth, slabs, seen, queries, factors, state.values + d, stride);
    else
      add_values<Vec::kTileRows, Vec::kWide>(scores, kWidth, slabs, seen, queries, factors, state.values + d, stride);
  }
}

// Copy `count` rows of keys, [count, size], as float32 [count, stride], times their scales if there are any.
template <typename T>
static void widen_keys(const T* keys, size_t size, size_t count, const float* scales, float* to, size_t stride) {
  for (size_t t = 0; t < count; ++t)
    for (size_t d = 0; d < size; d += Vec::kLanes) {
      const Floats key = load_up_to(keys + t * size + d, size - d);
      store_up_to(to + t * stride + d,
                  scales == nullptr ? key : Vec::mul(key, load_up_to(scales + d, size - d)), size - d);
    }
}

// Copy `count` rows of values, [count, stride], as slabs [kBlock][lanes], times their scales if there are any.
template <typename T>
static void widen_values(const T* values, size_t stride, size_t size, size_t count, const float* scales, float* slabs) {
  for (size_t first = 0; first < size; first += kPanel, slabs += kBlock * kPanel) {
    const size_t width = panel_vectors(size - first) * Vec::kLanes;
    for (size_t i = 0; i < width; i += Vec::kLanes) {
      const size_t d = first + i, left = d < size ? size - d : 0;
      const Floats scale = scales == nullptr ? Vec::all(1.0f) : load_up_to(scales + smaller(d, size), left);
      for (size_t t = 0; t < count; ++t)
        Vec::store(slabs + t * width + i, Vec::mul(load_up_to(values + t * stride + smaller(d, size), left), scale));
    }
  }
}
