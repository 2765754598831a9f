// Products of int8 by smmla: 2 rows of activations with 2 rows of weights, 8 codes of each. What is left of an odd
// number of rows goes by sdot.
template <unsigned BITS>
struct Step : Bytes<BITS> {
  // Of rows 2i and 2i + 1: sums with the first two lanes' weights, and with the others'. Of a last row: its own.
  using Sums = Set::Ints;

  template <size_t VECTORS, size_t ROWS>
  static INLINE void begin(Sums (&sums)[VECTORS][ROWS], const Set::Ints (&)[VECTORS][ROWS]) {
    each<VECTORS>([&](auto v) { each<ROWS>([&](auto r) { sums[v][r] = vdupq_n_s32(0); }); });
  }
  template <size_t VECTORS, size_t ROWS>
  static INLINE void add(Sums (&sums)[VECTORS][ROWS], const uint8_t* codes, const int8_t* x) {
    constexpr size_t kPairs = ROWS / 2, kLast = ROWS - 1;
    const Quads<ROWS> x_first = Quads<ROWS>::of(x), x_second = Quads<ROWS>::of(x + 4 * ROWS);
    int8x16_t pairs[kPairs + 1];  // of both quads
    each<kPairs>([&](auto p) { pairs[p] = zipped<p % 2>(x_first.four[p / 2], x_second.four[p / 2]); });
    each<VECTORS>([&](auto v) {
      const uint8_t* at = codes + v * Set::kLanes * 4;
      const int8x16_t first = Bytes<BITS>::first(at), second = Bytes<BITS>::second(at);
      const int8x16_t low = zipped<0>(first, second), high = zipped<1>(first, second);
      each<kPairs>([&](auto p) {
        sums[v][2 * p] = vmmlaq_s32(sums[v][2 * p], pairs[p], low);
        sums[v][2 * p + 1] = vmmlaq_s32(sums[v][2 * p + 1], pairs[p], high);
      });
      if constexpr (ROWS % 2 != 0) {
        sums[v][kLast] = vdotq_laneq_s32(sums[v][kLast], first, x_first.four[kLast / 4], kLast % 4);
        sums[v][kLast] = vdotq_laneq_s32(sums[v][kLast], second, x_second.four[kLast / 4], kLast % 4);
      }
    });
  }
  template <size_t VECTORS, size_t ROWS>
  static INLINE void end(Set::Ints (&ints)[VECTORS][ROWS], const Sums (&sums)[VECTORS][ROWS]) {
    each<VECTORS>([&](auto v) {
      each<ROWS / 2>([&](auto p) {
        const int64x2_t low = vreinterpretq_s64_s32(sums[v][2 * p]), high = vreinterpretq_s64_s32(sums[v][2 * p + 1]);
        ints[v][2 * p] = vaddq_s32(ints[v][2 * p], vreinterpretq_s32_s64(vzip1q_s64(low, high)));
        ints[v][2 * p + 1] = vaddq_s32(ints[v][2 * p + 1], vreinterpretq_s32_s64(vzip2q_s64(low, high)));
      });
      if constexpr (ROWS % 2 != 0) ints[v][ROWS - 1] = vaddq_s32(ints[v][ROWS - 1], sums[v][ROWS - 1]);
    });
  }

 private:
  // Lanes of two quads in turn: the lower two of each, or the upper two.
  template <size_t HALF>
  static inline int8x16_t zipped(int8x16_t a, int8x16_t b) {
    const int32x4_t x = vreinterpretq_s32_s8(a), y = vreinterpretq_s32_s8(b);
    return vreinterpretq_s8_s32(HALF == 0 ? vzip1q_s32(x, y) : vzip2q_s32(x, y));
  }
};
