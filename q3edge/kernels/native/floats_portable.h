// Primitives on vectors of 4 float32 in plain C++, for every CPU. Included inside a namespace of its own.

struct Vec {
  struct Floats {
    float lane[4];
  };
  static constexpr size_t kLanes = 4;
  static constexpr size_t kWide = 2;    // vectors side by side in a register tile
  static constexpr int kTileRows = 4;   // rows of a register tile
  static constexpr size_t kDots = 4;    // scalar products computed at once, a multiple of kLanes
  static constexpr size_t kSums = 4;    // vectors of weighted values computed at once
  static constexpr size_t kFewOfInt8 = 4, kFewOfFloat = 4;  // queries that are not worth a panel

  // Ask for a cache line, which need not be there.
  static inline void prefetch(const void*) {}

  static inline Floats all(float value) { return {{value, value, value, value}}; }
  static inline Floats load(const float* from) { return {{from[0], from[1], from[2], from[3]}}; }
  static inline Floats load(const float* from, size_t count) {
    Floats found = all(0.0f);
    for (size_t i = 0; i < count; ++i) found.lane[i] = from[i];
    return found;
  }
  static inline Floats load(const int8_t* from) {
    return {{static_cast<float>(from[0]), static_cast<float>(from[1]), static_cast<float>(from[2]),
             static_cast<float>(from[3])}};
  }
  static inline Floats load(const int8_t* from, size_t count) {
    Floats found = all(0.0f);
    for (size_t i = 0; i < count; ++i) found.lane[i] = static_cast<float>(from[i]);
    return found;
  }
  static inline void store(float* to, Floats x) {
    for (size_t i = 0; i < 4; ++i) to[i] = x.lane[i];
  }
  static inline void store(float* to, Floats x, size_t count) {
    for (size_t i = 0; i < count; ++i) to[i] = x.lane[i];
  }
  // Rounds x, between -128 and 127, halves to even.
  static inline void store(int8_t* to, Floats x, size_t count) {
    for (size_t i = 0; i < count; ++i) to[i] = static_cast<int8_t>(whole_bits(x.lane[i]));
  }

  static inline Floats add(Floats x, Floats y) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] += y.lane[i];
    return x;
  }
  static inline Floats sub(Floats x, Floats y) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] -= y.lane[i];
    return x;
  }
  static inline Floats mul(Floats x, Floats y) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] *= y.lane[i];
    return x;
  }
  static inline Floats div(Floats x, Floats y) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] /= y.lane[i];
    return x;
  }
  static inline Floats mul_add(Floats x, Floats y, Floats z) { return add(mul(x, y), z); }
  // The larger one; y where either is NaN.
  static inline Floats max(Floats x, Floats y) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] = x.lane[i] > y.lane[i] ? x.lane[i] : y.lane[i];
    return x;
  }
  static inline Floats min(Floats x, Floats y) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] = x.lane[i] < y.lane[i] ? x.lane[i] : y.lane[i];
    return x;
  }
  // yes where x < y, else no (also where either is NaN).
  static inline Floats where_less(Floats x, Floats y, Floats yes, Floats no) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] = x.lane[i] < y.lane[i] ? yes.lane[i] : no.lane[i];
    return x;
  }
  static inline Floats whole(Floats x) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] = static_cast<float>(whole_bits(x.lane[i]));
    return x;
  }
  // x * 2^n, for whole n from -125 to 0 and x near 1.
  static inline Floats times_power(Floats x, Floats n) {
    for (size_t i = 0; i < 4; ++i)
      x.lane[i] = x.lane[i] * float_of(static_cast<uint32_t>(whole_bits(n.lane[i]) + 127) << 23);
    return x;
  }

  // Lane i: the sum of x[i]'s lanes, for 4 vectors.
  static inline Floats sums(const Floats* x) {
    Floats found;
    for (size_t i = 0; i < 4; ++i) found.lane[i] = (x[i].lane[0] + x[i].lane[1]) + (x[i].lane[2] + x[i].lane[3]);
    return found;
  }

  // to[j * to_stride + i] = from[i * stride + j], for i and j below 4.
  static inline void transpose(const float* from, size_t stride, float* to, size_t to_stride) {
    for (size_t i = 0; i < 4; ++i)
      for (size_t j = 0; j < 4; ++j) to[j * to_stride + i] = from[i * stride + j];
  }

 private:
  // The nearest whole number, halves to even, of |x| < 2^22: adding 1.5 * 2^23 leaves it in the low bits.
  static inline int32_t whole_bits(float x) {
    return static_cast<int32_t>(bits_of(x + 12582912.0f)) - 0x4b400000;
  }
};
