// Rounding of activations to int8, over the primitives of `Set`; see kernels.h.

// Round a group as onnxruntime does: to 127ths of its largest magnitude, halves to even. Codes are -127 to 127.
// A group that has a NaN or an infinity has codes 0 and the scale NaN, which its row's results become.
// Codes of a panel of h rows lie as [K / PART][h][PART].
template <size_t PANEL_ROWS, size_t PART>
static void quantize_panels(const MatrixShape& shape, const Input& input, size_t rows, Range panels,
                            const Activations& out) {
  constexpr float kLeast = 7.7e-34f;  // 2^-110: of less, 127ths are not normal numbers, and codes are 0
  const size_t all = PANEL_ROWS, groups = shape.groups();
  int8_t codes[kMostCodes];
  float values[kMostCodes];
  for (size_t panel = panels.begin; panel < panels.end; ++panel) {
    const size_t first = panel * all, count = rows - first < all ? rows - first : all;
    for (size_t r = 0; r < count; ++r) {
      const float by = row_factor(input, first + r, shape.width);
      for (size_t group = 0; group < groups; ++group) {
        const float* from = row_part(input, first + r, shape.width, by, group * shape.group, shape.group, values);
        const float largest = Set::largest(from, shape.group);
        float scale = largest / 127.0f;
        int32_t sum = 0;
        if (largest >= kLeast && largest <= FLT_MAX) {
          sum = Set::rounded(from, shape.group, 127.0f / largest, codes);
        } else {
          memset(codes, 0, sizeof codes);
          if (!(largest <= FLT_MAX)) scale = NAN;
        }
        int8_t* to = out.codes + first * shape.width + group * shape.group * count + PART * r;
        for (size_t k = 0; k < shape.group; k += PART, to += PART * count) memcpy(to, codes + k, PART);
        out.scales[first * groups + group * count + r] = scale;
        out.negative_sums[first * groups + group * count + r] = -sum;
      }
    }
  }
}
