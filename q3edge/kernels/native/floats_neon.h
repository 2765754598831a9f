// Primitives on vectors of 4 float32: NEON of AArch64. Included inside a namespace of its own.

struct Vec {
  using Floats = float32x4_t;
  static constexpr size_t kLanes = 4;
  static constexpr size_t kWide = 4;    // vectors side by side in a register tile
  static constexpr int kTileRows = 6;   // rows of a register tile
  static constexpr size_t kDots = 8;    // scalar products computed at once, a multiple of kLanes
  static constexpr size_t kSums = 16;   // vectors of weighted values computed at once
  static constexpr size_t kFewOfInt8 = 8, kFewOfFloat = 8;  // queries that are not worth a panel

  // Ask for a cache line, which need not be there.
  static inline void prefetch(const void* from) { __builtin_prefetch(from); }

  static inline Floats all(float value) { return vdupq_n_f32(value); }
  static inline Floats load(const float* from) { return vld1q_f32(from); }
  static inline Floats load(const float* from, size_t count) {
    float values[kLanes] = {};
    for (size_t i = 0; i < count; ++i) values[i] = from[i];
    return vld1q_f32(values);
  }
  static inline Floats load(const int8_t* from) {
    uint32_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    const int16x8_t words = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(bytes)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
  }
  static inline Floats load(const int8_t* from, size_t count) {
    int8_t bytes[kLanes] = {};
    for (size_t i = 0; i < count; ++i) bytes[i] = from[i];
    return load(bytes);
  }
  static inline void store(float* to, Floats x) { vst1q_f32(to, x); }
  static inline void store(float* to, Floats x, size_t count) {
    float values[kLanes];
    vst1q_f32(values, x);
    for (size_t i = 0; i < count; ++i) to[i] = values[i];
  }
  // Rounds x, between -128 and 127, halves to even.
  static inline void store(int8_t* to, Floats x, size_t count) {
    int32_t values[kLanes];
    vst1q_s32(values, vcvtnq_s32_f32(x));
    for (size_t i = 0; i < count; ++i) to[i] = static_cast<int8_t>(values[i]);
  }

  static inline Floats add(Floats x, Floats y) { return vaddq_f32(x, y); }
  static inline Floats sub(Floats x, Floats y) { return vsubq_f32(x, y); }
  static inline Floats mul(Floats x, Floats y) { return vmulq_f32(x, y); }
  static inline Floats div(Floats x, Floats y) { return vdivq_f32(x, y); }
  static inline Floats mul_add(Floats x, Floats y, Floats z) { return vfmaq_f32(z, x, y); }
  // The larger one; NaN where either is NaN.
  static inline Floats max(Floats x, Floats y) { return vmaxq_f32(x, y); }
  static inline Floats min(Floats x, Floats y) { return vminq_f32(x, y); }
  // yes where x < y, else no (also where either is NaN).
  static inline Floats where_less(Floats x, Floats y, Floats yes, Floats no) {
    return vbslq_f32(vcltq_f32(x, y), yes, no);
  }
  static inline Floats whole(Floats x) { return vrndnq_f32(x); }
  // x * 2^n, for whole n from -125 to 0 and x near 1.
  static inline Floats times_power(Floats x, Floats n) {
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(vcvtq_s32_f32(n), 23)));
  }

  // Lane i: the sum of x[i]'s lanes, for 4 vectors.
  static inline Floats sums(const Floats* x) {
    return vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3]));
  }

  // to[j * to_stride + i] = from[i * stride + j], for i and j below 4.
  static inline void transpose(const float* from, size_t stride, float* to, size_t to_stride) {
    const float32x4x2_t a = vtrnq_f32(load(from), load(from + stride));
    const float32x4x2_t b = vtrnq_f32(load(from + 2 * stride), load(from + 3 * stride));
    for (size_t i = 0; i < 2; ++i) {
      store(to + i * to_stride, vcombine_f32(vget_low_f32(a.val[i]), vget_low_f32(b.val[i])));
      store(to + (2 + i) * to_stride, vcombine_f32(vget_high_f32(a.val[i]), vget_high_f32(b.val[i])));
    }
  }
};
