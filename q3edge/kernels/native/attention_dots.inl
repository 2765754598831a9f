// Attention of a few queries: scalar products with one key after another, each read once for up to 4 queries.

constexpr size_t kSpan = 512;       // keys whose scores are held at once
constexpr size_t kAhead = 2048;     // bytes, from what is read to what is asked for
constexpr size_t kValueBlock = 64;  // values that stay in the nearest cache while several parts of them are read

// Scores of QUERIES queries, [QUERIES, stride], with kDots / QUERIES keys of which `count` exist: [key][query].
template <size_t QUERIES, typename T>
static inline void dots(const float* queries, size_t stride, const T* keys, size_t size, size_t count, float* scores) {
  constexpr size_t kKeys = Vec::kDots / QUERIES;
  const T* rows[kKeys];
  ask_for(keys + kAhead / sizeof(T), kKeys * size);
  for (size_t i = 0; i < kKeys; ++i) rows[i] = keys + smaller(i, count - 1) * size;
  Floats sums[Vec::kDots];
  for (size_t i = 0; i < Vec::kDots; ++i) sums[i] = Vec::all(0.0f);
  size_t d = 0;
  for (; d + Vec::kLanes <= size; d += Vec::kLanes) {
    Floats query[QUERIES];
    for (size_t j = 0; j < QUERIES; ++j) query[j] = Vec::load(queries + j * stride + d);
    for (size_t i = 0; i < kKeys; ++i) {
      const Floats key = Vec::load(rows[i] + d);
      for (size_t j = 0; j < QUERIES; ++j) sums[i * QUERIES + j] = Vec::mul_add(key, query[j], sums[i * QUERIES + j]);
    }
  }
  if (d < size) {
    for (size_t i = 0; i < kKeys; ++i) {
      const Floats key = Vec::load(rows[i] + d, size - d);
      for (size_t j = 0; j < QUERIES; ++j)
        sums[i * QUERIES + j] =
            Vec::mul_add(key, Vec::load(queries + j * stride + d, size - d), sums[i * QUERIES + j]);
    }
  }
  for (size_t i = 0; i < Vec::kDots; i += Vec::kLanes) Vec::store(scores + i, Vec::sums(sums + i));
}

// out[query] = factor * out[query] + weighted sum of VECTORS vectors of `count` values; weights [value][query].
template <size_t QUERIES, size_t VECTORS, typename T>
static inline void add_weighted(const float* weights, const T* values, size_t size, size_t count, size_t lanes,
                                const float* factors, float* out, size_t stride) {
  Floats sums[QUERIES][VECTORS];
  for (size_t j = 0; j < QUERIES; ++j)
    for (size_t v = 0; v < VECTORS; ++v)
      sums[j][v] = Vec::mul(Vec::load(out + j * stride + v * Vec::kLanes), Vec::all(factors[j]));
  for (size_t i = 0; i < count; ++i) {
    ask_for(values + i * size + kAhead / sizeof(T), VECTORS * Vec::kLanes);
    Floats weight[QUERIES];
    for (size_t j = 0; j < QUERIES; ++j) weight[j] = Vec::all(weights[i * QUERIES + j]);
    for (size_t v = 0; v < VECTORS; ++v) {
      const T* from = values + i * size + v * Vec::kLanes;
      const Floats value = VECTORS > 1 || lanes == Vec::kLanes ? Vec::load(from) : Vec::load(from, lanes);
      for (size_t j = 0; j < QUERIES; ++j) sums[j][v] = Vec::mul_add(value, weight[j], sums[j][v]);
    }
  }
  for (size_t j = 0; j < QUERIES; ++j)
    for (size_t v = 0; v < VECTORS; ++v) Vec::store(out + j * stride + v * Vec::kLanes, sums[j][v]);
}

// The same for all of the values' `size`, from `d` on, in as wide parts as there are.
template <size_t QUERIES, size_t VECTORS, typename T>
static inline void add_all_weighted(const float* weights, const T* values, size_t size, size_t count, size_t d,
                                    const float* factors, float* out, size_t stride) {
  for (; size - d >= VECTORS * Vec::kLanes; d += VECTORS * Vec::kLanes)
    add_weighted<QUERIES, VECTORS>(weights, values + d, size, count, Vec::kLanes, factors, out + d, stride);
  if constexpr (VECTORS > 1)
    add_all_weighted<QUERIES, VECTORS / 2>(weights, values, size, count, d, factors, out, stride);
  else if (d < size)
    add_weighted<QUERIES, 1>(weights, values + d, size, count, size - d, factors, out + d, stride);
}

// Go on with QUERIES queries over `count` keys, at most kSpan; query j sees the first seen[j] of them.
template <size_t QUERIES, typename T>
static void gather_span(const float* queries, size_t stride, const T* keys, const T* values, size_t size, size_t count,
                        const size_t* seen, const State& state, float* scores) {
  constexpr size_t kKeys = Vec::kDots / QUERIES;
  constexpr size_t kEach = Vec::kLanes;
  for (size_t i = 0; i < count; i += kKeys)
    dots<QUERIES>(queries, stride, keys + i * size, size, smaller(kKeys, count - i), scores + i * QUERIES);
  const size_t padded = rounded_up(count * QUERIES, kEach);
  for (size_t i = count * QUERIES; i < padded; ++i) scores[i] = kMasked;
  for (size_t j = 0; j < QUERIES; ++j)
    for (size_t i = seen[j]; i < count; ++i) scores[i * QUERIES + j] = kMasked;

  float lanes[kEach], tops[kEach], factors[kEach];
  Floats top = Vec::all(kMasked);
  for (size_t i = 0; i < padded; i += kEach) top = Vec::max(top, Vec::load(scores + i));
  Vec::store(lanes, top);
  for (size_t i = 0; i < QUERIES; ++i) tops[i] = state.largest[i];
  for (size_t i = 0; i < kEach; ++i)
    if (lanes[i] > tops[i % QUERIES]) tops[i % QUERIES] = lanes[i];
  for (size_t i = 0; i < kEach; ++i) {
    tops[i] = tops[i % QUERIES];
    lanes[i] = state.largest[i % QUERIES];
  }
  top = Vec::load(tops);
  Vec::store(factors, power_of_2(Vec::sub(Vec::load(lanes), top)));
  Floats sum = Vec::all(0.0f);
  for (size_t i = 0; i < padded; i += kEach) {
    const Floats weight = power_of_2(Vec::sub(Vec::load(scores + i), top));
    Vec::store(scores + i, weight);
    sum = Vec::add(sum, weight);
  }
  Vec::store(lanes, sum);
  for (size_t j = 0; j < QUERIES; ++j) {
    float total = 0.0f;
    for (size_t i = j; i < kEach; i += QUERIES) total += lanes[i];
    state.largest[j] = tops[j];
    state.sum[j] = state.sum[j] * factors[j] + total;
  }
  for (size_t i = 0; i < count; i += kValueBlock) {
    add_all_weighted<QUERIES, Vec::kSums / QUERIES>(scores + i * QUERIES, values + i * size, size,
                                                    smaller(kValueBlock, count - i), 0, factors, state.values, stride);
    for (size_t j = 0; j < QUERIES; ++j) factors[j] = 1.0f;
  }
}
