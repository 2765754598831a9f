// What the steps of most sets have in common: the sums of a row and a vector are a value of their own, of `dot`.

template <typename Step, typename Set>
struct RowByRow {
  template <size_t VECTORS, size_t ROWS, typename Sums, typename Ints>
  static INLINE void begin(Sums (&sums)[VECTORS][ROWS], const Ints (&ints)[VECTORS][ROWS]) {
    each<VECTORS>([&](auto v) { each<ROWS>([&](auto r) { sums[v][r] = Step::begin_one(ints[v][r]); }); });
  }
  // Add the products of 8 codes of K: those of VECTORS vectors from `codes` on, those of ROWS rows at `x`.
  template <size_t VECTORS, size_t ROWS, typename Sums>
  static INLINE void add(Sums (&sums)[VECTORS][ROWS], const uint8_t* codes, const int8_t* x) {
    each<2>([&](auto half) {
      typename Step::Codes found[VECTORS];
      each<VECTORS>([&](auto v) {
        found[v] = half == 0 ? Step::first(codes + v * Set::kLanes * 4) : Step::second(codes + v * Set::kLanes * 4);
      });
      each<ROWS>([&](auto r) {
        const auto quad = Step::quad(x + 4 * (half * ROWS + r));
        each<VECTORS>([&](auto v) { sums[v][r] = Step::dot(sums[v][r], found[v], quad); });
      });
    });
  }
  template <size_t VECTORS, size_t ROWS, typename Sums, typename Ints>
  static INLINE void end(Ints (&ints)[VECTORS][ROWS], const Sums (&sums)[VECTORS][ROWS]) {
    each<VECTORS>([&](auto v) { each<ROWS>([&](auto r) { ints[v][r] = Step::end_one(ints[v][r], sums[v][r]); }); });
  }
};
