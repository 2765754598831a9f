// What attention computes on vectors of floats: norms of heads, rotation, rounding, and what it has gathered.

// Score of a key that a query does not see: finite, so that differences of scores are no NaN.
constexpr float kMasked = -3e38f;

static void normalize(const float* x, const float* weights, float epsilon, size_t size, float* to) {
  multiply_by(x, norm_factor(x, epsilon, size), weights, size, to);
}

// Rotate pairs i and i + half of `from`, float32 [2 half], by the angles whose cos and sin are given, each [half].
static void rotate(const float* from, const float* cos, const float* sin, size_t half, float* to) {
  const Floats minus = Vec::all(-1.0f);
  for (size_t i = 0; i < half; i += Vec::kLanes) {
    const size_t count = half - i;
    const Floats low = load_up_to(from + i, count), high = load_up_to(from + half + i, count);
    const Floats c = load_up_to(cos + i, count), s = load_up_to(sin + i, count);
    store_up_to(to + i, Vec::mul_add(low, c, Vec::mul(Vec::mul(high, s), minus)), count);
    store_up_to(to + half + i, Vec::mul_add(high, c, Vec::mul(low, s)), count);
  }
}

// x *= factor, and also times scales[i] where there are any.
static void scale(float* x, float factor, const float* scales, size_t size) {
  for (size_t i = 0; i < size; i += Vec::kLanes) {
    const Floats all = Vec::all(factor);
    const Floats by = scales == nullptr ? all : Vec::mul(all, load_up_to(scales + i, size - i));
    store_up_to(x + i, Vec::mul(load_up_to(x + i, size - i), by), size - i);
  }
}

// Codes of x / scale, halves to even, from -128 to 127.
static void round_to_codes(const float* x, const float* scales, size_t size, int8_t* codes) {
  for (size_t i = 0; i < size; i += Vec::kLanes) {
    const size_t count = smaller(size - i, Vec::kLanes);
    const Floats divisor = count == Vec::kLanes ? Vec::load(scales + i) : Vec::load(scales + i, count);
    const Floats value = Vec::div(load_up_to(x + i, count), divisor);
    Vec::store(codes + i, Vec::min(Vec::all(127.0f), Vec::max(Vec::all(-128.0f), value)), count);
  }
}

// What queries have gathered from some of the keys: of each, the largest score, the sum of the powers of 2 of the
// differences to it, and the values weighted by these powers.
struct State {
  float* largest;
  float* sum;
  float* values;  // [queries, stride]

  // In memory of so many floats.
  static size_t floats(size_t queries, size_t stride) { return queries * (stride + 2); }
  static State at(float* memory, size_t queries) { return {memory, memory + queries, memory + 2 * queries}; }
  State from(size_t query, size_t stride) const { return {largest + query, sum + query, values + query * stride}; }
};

static void begin(const State& state, size_t queries, size_t stride) {
  for (size_t i = 0; i < rounded_up(queries, Vec::kWide * Vec::kLanes); i += Vec::kLanes) {
    Vec::store(state.largest + i, Vec::all(kMasked));
    Vec::store(state.sum + i, Vec::all(0.0f));
  }
  for (size_t i = 0; i < queries * stride; i += Vec::kLanes) Vec::store(state.values + i, Vec::all(0.0f));
}

// Add to `state` what was gathered from later keys.
static void merge(const State& state, const State& more, size_t queries, size_t stride) {
  for (size_t i = 0; i < queries; i += Vec::kLanes) {
    const Floats a = Vec::load(state.largest + i), b = Vec::load(more.largest + i), top = Vec::max(a, b);
    const Floats by_a = power_of_2(Vec::sub(a, top)), by_b = power_of_2(Vec::sub(b, top));
    Vec::store(state.largest + i, top);
    Vec::store(state.sum + i,
               Vec::mul_add(Vec::load(state.sum + i), by_a, Vec::mul(Vec::load(more.sum + i), by_b)));
    float of_a[Vec::kLanes], of_b[Vec::kLanes];
    Vec::store(of_a, by_a);
    Vec::store(of_b, by_b);
    for (size_t j = 0; j < Vec::kLanes && i + j < queries; ++j) {
      float* to = state.values + (i + j) * stride;
      const float* from = more.values + (i + j) * stride;
      const Floats factor = Vec::all(of_a[j]), other = Vec::all(of_b[j]);
      for (size_t d = 0; d < stride; d += Vec::kLanes)
        Vec::store(to + d, Vec::mul_add(Vec::load(to + d), factor, Vec::mul(Vec::load(from + d), other)));
    }
  }
}
