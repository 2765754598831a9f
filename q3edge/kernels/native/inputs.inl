// What a product's rows are made of before they are rounded, group by group: x itself, x normed, or silu(gate) * up.

static inline size_t source_of(const Input& input, size_t row) {
  return input.sources == nullptr ? row : input.sources[row];
}

// What all groups of a row are multiplied by: of a normed row 1 / sqrt(mean of squares + epsilon).
static float row_factor(const Input& input, size_t row, size_t width) {
  if (input.norm == nullptr) return 1.0f;
  return norm_factor(input.x + source_of(input, row) * width, input.epsilon, width);
}

// x / (1 + e^-x)
static inline Floats silu(Floats x) {
  const Floats minus = Vec::mul(x, Vec::all(-1.0f)), magnitude = Vec::max(minus, x), one = Vec::all(1.0f);
  const Floats power = power_of_2(Vec::mul(magnitude, Vec::all(-kLog2e)));
  const Floats part = Vec::where_less(x, Vec::all(0.0f), power, one);
  return Vec::mul(x, Vec::div(part, Vec::add(one, power)));
}

// Processors look ahead within a page alone: rows that lie behind each other are asked for one page ahead.
constexpr size_t kAhead = 4096 / sizeof(float);

// Values `begin` to `begin` + `count` of a row, in `buffer` unless x has them as they are.
static const float* row_part(const Input& input, size_t row, size_t width, float factor, size_t begin, size_t count,
                             float* buffer) {
  row = source_of(input, row);
  const float* x = input.x + row * (input.gated && input.up == nullptr ? 2 * width : width) + begin;
  ask_for(x + kAhead, count);
  if (input.gated) {
    const float* up = input.up == nullptr ? x + width : input.up + row * width + begin;
    ask_for(up + kAhead, count);
    for (size_t i = 0; i < count; i += Vec::kLanes)
      store_up_to(buffer + i, Vec::mul(silu(load_up_to(x + i, count - i)), load_up_to(up + i, count - i)), count - i);
    return buffer;
  }
  if (input.norm == nullptr) return x;
  multiply_by(x, factor, input.norm + begin, count, buffer);
  return buffer;
}
