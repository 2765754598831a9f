// The primitives in plain C++, on 16 lanes: for every CPU, and what the other sets are compared with.

struct Set {
  static constexpr const char* kName = "portable";
  static constexpr size_t kLanes = 16;
  static constexpr size_t kPanelRows = 2;
  static constexpr size_t vectors(size_t) { return 1; }
  static constexpr size_t parts(size_t) { return 1; }

  struct Ints {
    int32_t lane[kLanes];
  };
  struct Floats {
    float lane[kLanes];
  };

  static inline Ints zero_point_products(Ints zero_points, int32_t negative_sum) {
    for (int32_t& value : zero_points.lane) value *= negative_sum;
    return zero_points;
  }
  static inline Ints zero_points(const uint8_t* bytes, int) {
    Ints found;
    for (size_t i = 0; i < kLanes; ++i) found.lane[i] = bytes[i];
    return found;
  }
  static inline Ints sum(Ints x, Ints y) {
    for (size_t i = 0; i < kLanes; ++i) x.lane[i] += y.lane[i];
    return x;
  }
  static inline Ints all(int32_t value) {
    Ints found;
    for (int32_t& lane : found.lane) lane = value;
    return found;
  }
  static inline Floats float16(const uint8_t* bytes) {
    Floats found;
    for (size_t i = 0; i < kLanes; ++i) found.lane[i] = float_of_half(bytes[2 * i] | bytes[2 * i + 1] << 8);
    return found;
  }
  static inline Floats float32(const uint8_t* bytes) {
    Floats found;
    memcpy(found.lane, bytes, sizeof found.lane);
    return found;
  }
  static inline Floats zero() { return Floats{}; }
  static inline Floats scaled(Floats sums, Ints ints, Floats scale, float factor) {
    for (size_t i = 0; i < kLanes; ++i) sums.lane[i] += static_cast<float>(ints.lane[i]) * (scale.lane[i] * factor);
    return sums;
  }
  static inline void store(float* to, Floats values) { memcpy(to, values.lane, sizeof values.lane); }
  static inline void store(float* to, Floats values, size_t count) {
    memcpy(to, values.lane, count * sizeof(float));
  }
  static inline float largest(const float* x, size_t count) {
    uint32_t found = 0;
    for (size_t i = 0; i < count; ++i) {
      const uint32_t magnitude = bits_of(x[i]) & 0x7fffffff;
      found = magnitude > found ? magnitude : found;
    }
    return float_of(found);
  }
  static inline int32_t rounded(const float* x, size_t count, float factor, int8_t* codes) {
    int32_t sum = 0;
    for (size_t i = 0; i < count; ++i) {
      // Adding 1.5 * 2^23 leaves the whole number, halves rounded to even, in the low bits.
      codes[i] = static_cast<int8_t>(static_cast<int32_t>(bits_of(x[i] * factor + 12582912.0f)) - 0x4b400000);
      sum += codes[i];
    }
    return sum;
  }

 private:
  static inline float float_of_half(uint32_t half) {
    const uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ff;
    if (exponent == 0) {
      const float value = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
      return sign ? -value : value;
    }
    return float_of(sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13);
  }
};

template <unsigned BITS>
struct Step : RowByRow<Step<BITS>, Set> {
  using Sums = Set::Ints;
  struct Codes {
    uint8_t byte[4 * Set::kLanes];
  };
  static constexpr size_t kCodes = kMostCodes;
  static constexpr int kShift = 0;

  static inline Sums begin_one(Set::Ints ints) { return ints; }
  static inline Set::Ints end_one(Set::Ints, Sums sums) { return sums; }
  static inline Codes first(const uint8_t* codes) {
    Codes found;
    for (size_t i = 0; i < sizeof found.byte; ++i) found.byte[i] = BITS == 8 ? codes[i] : codes[i] & 15;
    return found;
  }
  static inline Codes second(const uint8_t* codes) {
    Codes found;
    for (size_t i = 0; i < sizeof found.byte; ++i) found.byte[i] = BITS == 8 ? codes[4 * kTileRows + i] : codes[i] >> 4;
    return found;
  }
  static inline const int8_t* quad(const int8_t* x) { return x; }
  static inline Sums dot(Sums sums, const Codes& codes, const int8_t* x) {
    for (size_t i = 0; i < Set::kLanes; ++i)
      for (size_t j = 0; j < 4; ++j) sums.lane[i] += codes.byte[4 * i + j] * x[j];
    return sums;
  }
};
