// What kernels compute on vectors of floats: powers of 2, norms, rotation, rounding; and what attention has gathered.

using Floats = Vec::Floats;

// Score of a key that a query does not see: finite, so that differences of scores are no NaN.
constexpr float kMasked = -3e38f;
constexpr float kLog2e = 1.44269504088896341f;

// 2^x for x up to 0, relative error below 1e-7; 0 below 2^-125, NaN for NaN.
static inline Floats power_of_2(Floats x) {
  const Floats least = Vec::all(-125.0f);
  const Floats bounded = Vec::max(least, x);
  const Floats n = Vec::whole(bounded), r = Vec::sub(bounded, n);
  Floats p = Vec::all(1.5353361e-4f);  // a minimax polynomial of 2^r on [-0.5, 0.5], exact at 0
  p = Vec::mul_add(p, r, Vec::all(1.3398874e-3f));
  p = Vec::mul_add(p, r, Vec::all(9.6184374e-3f));
  p = Vec::mul_add(p, r, Vec::all(5.5503325e-2f));
  p = Vec::mul_add(p, r, Vec::all(2.4022648e-1f));
  p = Vec::mul_add(p, r, Vec::all(6.9314720e-1f));
  p = Vec::mul_add(p, r, Vec::all(1.0f));
  return Vec::where_less(x, least, Vec::all(0.0f), Vec::times_power(p, n));
}

static inline size_t rounded_up(size_t x, size_t step) { return (x + step - 1) / step * step; }
static inline size_t smaller(size_t x, size_t y) { return x < y ? x : y; }
static inline size_t larger(size_t x, size_t y) { return x > y ? x : y; }

template <typename T>
static inline Floats load_up_to(const T* from, size_t count) {
  return count >= Vec::kLanes ? Vec::load(from) : Vec::load(from, count);
}
static inline void store_up_to(float* to, Floats x, size_t count) {
  if (count >= Vec::kLanes)
    Vec::store(to, x);
  else
    Vec::store(to, x, count);
}

// Sum of the squares of x.
static float sum_of_squares(const float* x, size_t size) {
  Floats sum = Vec::all(0.0f);
  for (size_t i = 0; i < size; i += Vec::kLanes) {
    const Floats some = load_up_to(x + i, size - i);
    sum = Vec::mul_add(some, some, sum);
  }
  float lanes[Vec::kLanes], total = 0.0f;
  Vec::store(lanes, sum);
  for (const float lane : lanes) total += lane;
  return total;
}

// What x is multiplied by so that the mean of its squares is 1, but for epsilon.
static float norm_factor(const float* x, float epsilon, size_t size) {
  return 1.0f / sqrtf(sum_of_squares(x, size) / static_cast<float>(size) + epsilon);
}

// to = x * factor * weights
static void multiply_by(const float* x, float factor, const float* weights, size_t size, float* to) {
  const Floats all = Vec::all(factor);
  for (size_t i = 0; i < size; i += Vec::kLanes)
    store_up_to(to + i, Vec::mul(Vec::mul(load_up_to(x + i, size - i), all), load_up_to(weights + i, size - i)),
                size - i);
}

static void normalize(const float* x, const float* weights, float epsilon, size_t size, float* to) {
  multiply_by(x, norm_factor(x, epsilon, size), weights, size, to);
}

// Ask for the memory of `count` values, which need not be there: processors themselves look ahead within a page alone.
template <typename T>
static inline void ask_for(const T* from, size_t count) {
  const char* bytes = reinterpret_cast<const char*>(from);
  for (size_t i = 0; i < count * sizeof(T); i += 64) Vec::prefetch(bytes + i);
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
