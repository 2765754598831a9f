// Products of int8 by sdot, which adds those of 4 bytes to 32 bits.
template <unsigned BITS>
struct Step : Bytes<BITS>, RowByRow<Step<BITS>, Set> {
  using Sums = Set::Ints;

  static inline Sums begin_one(Set::Ints ints) { return ints; }
  static inline Set::Ints end_one(Set::Ints, Sums sums) { return sums; }
  template <size_t VECTORS, size_t ROWS>
  static INLINE void add(Sums (&sums)[VECTORS][ROWS], const uint8_t* codes, const int8_t* x) {
    const Quads<ROWS> first = Quads<ROWS>::of(x), second = Quads<ROWS>::of(x + 4 * ROWS);
    each<VECTORS>([&](auto v) {
      const uint8_t* at = codes + v * Set::kLanes * 4;
      const int8x16_t low = Bytes<BITS>::first(at), high = Bytes<BITS>::second(at);
      each<ROWS>([&](auto r) { sums[v][r] = vdotq_laneq_s32(sums[v][r], low, first.four[r / 4], r % 4); });
      each<ROWS>([&](auto r) { sums[v][r] = vdotq_laneq_s32(sums[v][r], high, second.four[r / 4], r % 4); });
    });
  }
};
