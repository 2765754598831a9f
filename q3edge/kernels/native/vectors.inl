// What kernels compute on vectors of floats: powers of 2 and norms.

using Floats = Vec::Floats;

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

// Ask for the memory of `count` values, which need not be there: processors themselves look ahead within a page alone.
template <typename T>
static inline void ask_for(const T* from, size_t count) {
  const char* bytes = reinterpret_cast<const char*>(from);
  for (size_t i = 0; i < count * sizeof(T); i += 64) Vec::prefetch(bytes + i);
}
