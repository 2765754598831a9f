// Primitives on 4 lanes for aarch64 (Arm's intrinsics, ACLE), without the products of int8: step_dotprod.h and
// step_i8mm.h have those. Included inside a namespace of its own.

struct Set {
  static constexpr const char* kName = kSetName;
  static constexpr size_t kLanes = 4;  // of int32
  static constexpr size_t kPanelRows = 8;
  // Vectors of a tile that are computed at once with so many rows of a panel: there are 32 registers.
  static constexpr size_t vectors(size_t rows) { return rows <= 4 ? 4 : 2; }
  // Sums that a group's products go into at once.
  static constexpr size_t parts(size_t rows) { return rows == 1 ? 2 : 1; }

  using Ints = int32x4_t;
  using Floats = float32x4_t;
  static inline Ints zero_point_products(Ints zero_points, int32_t negative_sum) {
    return vmulq_n_s32(zero_points, negative_sum);
  }
  static inline Ints zero_points(const uint8_t* bytes, int shift) {
    uint32_t four;
    memcpy(&four, bytes, sizeof four);
    const uint16x8_t wide = vmovl_u8(vcreate_u8(four));
    return vsubq_s32(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide))), vdupq_n_s32(shift));
  }
  static inline Ints sum(Ints x, Ints y) { return vaddq_s32(x, y); }
  static inline Ints all(int32_t value) { return vdupq_n_s32(value); }
  static inline Floats float16(const uint8_t* bytes) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(bytes)));
  }
  static inline Floats float32(const uint8_t* bytes) { return vreinterpretq_f32_u8(vld1q_u8(bytes)); }
  static inline Floats zero() { return vdupq_n_f32(0.0f); }
  // sums + ints * scale * factor
  static inline Floats scaled(Floats sums, Ints ints, Floats scale, float factor) {
    return vfmaq_f32(sums, vcvtq_f32_s32(ints), vmulq_n_f32(scale, factor));
  }
  static inline void store(float* to, Floats values) { vst1q_f32(to, values); }
  static inline void store(float* to, Floats values, size_t count) {
    float lane[kLanes];
    vst1q_f32(lane, values);
    memcpy(to, lane, count * sizeof(float));
  }

  // Largest magnitude of `count` values, a multiple of 8; NaN if there is one: as whole numbers NaNs are the largest.
  static inline float largest(const float* x, size_t count) {
    uint32x4_t found = vdupq_n_u32(0);
    for (size_t i = 0; i < count; i += 4)
      found = vmaxq_u32(found, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + i))));
    return float_of(vmaxvq_u32(found));
  }
  // Round `count` values times `factor` to int8; returns the sum of the codes.
  static inline int32_t rounded(const float* x, size_t count, float factor, int8_t* codes) {
    int32x4_t sums = vdupq_n_s32(0);
    for (size_t i = 0; i < count; i += 8) {
      const int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), factor));
      const int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4), factor));
      vst1_s8(codes + i, vqmovn_s16(vcombine_s16(vqmovn_s32(low), vqmovn_s32(high))));
      sums = vaddq_s32(sums, vaddq_s32(low, high));
    }
    return vaddvq_s32(sums);
  }
};

// The codes of a quad, and of the one behind it, as bytes with sign: those of 8 bits less 128.
template <unsigned BITS>
struct Bytes {
  static constexpr size_t kCodes = kMostCodes;
  static constexpr int kShift = BITS == 8 ? 128 : 0;

  static inline int8x16_t first(const uint8_t* codes) {
    const uint8x16_t found = vld1q_u8(codes);
    return vreinterpretq_s8_u8(BITS == 8 ? veorq_u8(found, vdupq_n_u8(128)) : vandq_u8(found, vdupq_n_u8(15)));
  }
  static inline int8x16_t second(const uint8_t* codes) {
    if (BITS == 8) return first(codes + 4 * kTileRows);
    return vreinterpretq_s8_u8(vshrq_n_u8(vld1q_u8(codes), 4));
  }
};

// 4 activations of each of ROWS rows, 4 rows in a register.
template <size_t ROWS>
struct Quads {
  int8x16_t four[(ROWS + 3) / 4];

  // Read them; nothing behind them.
  static inline Quads of(const int8_t* x) {
    Quads found;
    for (size_t i = 0; i < ROWS / 4; ++i) found.four[i] = vld1q_s8(x + 16 * i);
    if constexpr (ROWS % 4 != 0) found.four[ROWS / 4] = rest(x + ROWS / 4 * 16);
    return found;
  }

 private:
  static inline int8x16_t rest(const int8_t* x) {
    if constexpr (ROWS % 4 == 1) return vreinterpretq_s8_s32(vdupq_n_s32(four_at(x)));
    if constexpr (ROWS % 4 == 2) return vcombine_s8(vld1_s8(x), vld1_s8(x));
    if constexpr (ROWS % 4 == 3) return vcombine_s8(vld1_s8(x), vreinterpret_s8_s32(vdup_n_s32(four_at(x + 8))));
  }
  static inline int32_t four_at(const int8_t* x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return four;
  }
};
