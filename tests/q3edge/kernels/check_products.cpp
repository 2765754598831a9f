// Checks the kernels of products against naive code, over random shapes (check.h).
//
// test_native.py compiles this with the sources and with sanitizers, and for other CPUs than that of the machine.
// Every buffer has just the bytes that it needs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "pack.h"

namespace {

struct Naive {
  std::vector<int> codes, points;  // [N, K], [N, K/G]
  std::vector<float> scales;       // [N, K/G]
};

Naive random_matrix(Random& random, const MatrixShape& shape) {
  Naive found;
  const int top = (1 << shape.bits) - 1;
  std::uniform_int_distribution<int> code(0, top);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < shape.rows * shape.width; ++i) found.codes.push_back(code(random));
  for (size_t i = 0; i < shape.rows * shape.groups(); ++i) {
    found.points.push_back(shape.symmetric ? 1 << (shape.bits - 1) : code(random));
    float scale = normal(random) * 0.01f;
    if (!shape.float32_scales) scale = std::round(scale * 16384.0f) / 16384.0f;  // float16 has these
    found.scales.push_back(scale);
  }
  // A row of extremes: the largest sums there are.
  for (size_t k = 0; k < shape.width; ++k) found.codes[k] = top;
  if (!shape.symmetric)
    for (size_t g = 0; g < shape.groups(); ++g) found.points[g] = 0;
  return found;
}

std::vector<uint8_t> of_bits(const std::vector<int>& values, size_t row, unsigned bits) {
  if (bits == 8) return {values.begin(), values.end()};
  std::vector<uint8_t> found;
  for (size_t i = 0; i < values.size(); i += row)
    for (size_t k = 0; k < row; k += 2)
      found.push_back(static_cast<uint8_t>(values[i + k] | (k + 1 < row ? values[i + k + 1] << 4 : 0)));
  return found;
}

// x with rows of every kind: usual, of the largest codes, zero, tiny, with an infinity, with a NaN.
std::vector<float> random_rows(Random& random, const MatrixShape& shape, size_t rows) {
  std::normal_distribution<float> normal;
  std::vector<float> x(rows * shape.width);
  for (size_t r = 0; r < rows; ++r) {
    float* row = &x[r * shape.width];
    const size_t kind = between(random, 0, 11);
    for (size_t k = 0; k < shape.width; ++k)
      row[k] = kind == 0 ? 0.0f : kind == 1 ? 1e-42f : kind == 2 ? 3.0f : kind == 3 ? -3.0f : normal(random);
    if (kind == 4) row[between(random, 0, shape.width - 1)] = std::numeric_limits<float>::infinity();
    if (kind == 5) row[between(random, 0, shape.width - 1)] = std::numeric_limits<float>::quiet_NaN();
  }
  return x;
}

bool right(const MatrixShape& shape, const Naive& matrix, const float* row, size_t n, float found) {
  double sum = 0, magnitudes = 0;
  if (!std::all_of(row, row + shape.width, [](float value) { return std::isfinite(value); })) return std::isnan(found);
  for (size_t g = 0; g < shape.groups(); ++g) {
    const float* from = row + g * shape.group;
    float largest = 0;
    for (size_t k = 0; k < shape.group; ++k) largest = std::fmax(largest, std::fabs(from[k]));
    long whole = 0;
    const float factor = 127.0f / largest;
    if (std::isfinite(factor))
      for (size_t k = 0; k < shape.group; ++k)
        whole += std::lrint(from[k] * factor) *
                 (matrix.codes[n * shape.width + g * shape.group + k] - matrix.points[n * shape.groups() + g]);
    const double term =
        static_cast<double>(whole) * matrix.scales[n * shape.groups() + g] * static_cast<double>(largest / 127.0f);
    sum += term;
    magnitudes += std::fabs(term);
  }
  // The scales' product, the term's and each sum round once: (groups + 3) halves of an epsilon.
  const double bound = static_cast<double>(shape.groups() + 3) * 6e-8 * magnitudes + 1e-37;
  return std::fabs(static_cast<double>(found) - sum) <= bound;
}

// Rows that the kernel makes itself: normed, or gated with `up` behind the gate or in memory of its own.
enum Kind { kPlain, kNormed, kGated, kGatedApart, kKinds };

// What those rows are, float64 [M, K].
std::vector<double> made_rows(Kind kind, const std::vector<float>& x, const std::vector<float>& other, size_t rows,
                              size_t width, float epsilon) {
  std::vector<double> found;
  for (size_t r = 0; r < rows; ++r) {
    double squares = 0;
    if (kind == kNormed)
      for (size_t k = 0; k < width; ++k) squares += std::pow(x[r * width + k], 2) / static_cast<double>(width);
    for (size_t k = 0; k < width; ++k) {
      const double value = x[r * (kind == kGated ? 2 * width : width) + k];
      const double up = kind == kGated ? x[r * 2 * width + width + k] : kind == kGatedApart ? other[r * width + k] : 0;
      found.push_back(kind == kNormed ? value * other[k] / std::sqrt(squares + static_cast<double>(epsilon))
                                      : value / (1 + std::exp(-value)) * up);
    }
  }
  return found;
}

// Check rows that are made: each activation is rounded to a 127th of its group's largest, by at most half of one.
const char* check_made(const Kernels& kernels, Random& random, const Matrix& matrix, const Naive& naive, size_t rows) {
  const MatrixShape& shape = matrix.shape;
  const auto kind = static_cast<Kind>(between(random, kNormed, kKinds - 1));
  std::normal_distribution<float> normal;
  std::vector<float> x(rows * shape.width * (kind == kGated ? 2 : 1)), y(rows * shape.rows), summand(y.size());
  std::vector<float> other(kind == kNormed ? shape.width : kind == kGatedApart ? x.size() : 0);
  for (std::vector<float>* values : {&x, &summand, &other})
    for (float& value : *values) value = normal(random);
  const bool gated = kind != kNormed;
  const Input input{x.data(), gated, kind == kGatedApart ? other.data() : nullptr, gated ? nullptr : other.data(),
                    1e-6f};
  const Aligned scratch(product_scratch(shape, rows));
  multiply_all(kernels, matrix, input, rows, summand.data(), y.data(), scratch.data, {backwards, nullptr, 3});

  const std::vector<double> made = made_rows(kind, x, other, rows, shape.width, input.epsilon);
  for (size_t r = 0; r < rows; ++r)
    for (size_t n = 0; n < shape.rows; ++n) {
      double sum = summand[r * shape.rows + n], bound = 1e-5 * std::fabs(sum);
      for (size_t g = 0; g < shape.groups(); ++g) {
        double largest = 0, weights = 0;
        for (size_t k = g * shape.group; k < (g + 1) * shape.group; ++k) {
          const double weight = (naive.codes[n * shape.width + k] - naive.points[n * shape.groups() + g]) *
                                static_cast<double>(naive.scales[n * shape.groups() + g]);
          sum += weight * made[r * shape.width + k];
          weights += std::fabs(weight);
          largest = std::fmax(largest, std::fabs(made[r * shape.width + k]));
        }
        bound += weights * largest * (0.5 / 127 + 1e-4);
      }
      if (!(std::fabs(y[r * shape.rows + n] - sum) <= bound)) return gated ? "wrong where gated" : "wrong where normed";
    }
  return nullptr;
}

bool check(const Kernels& kernels, Random& random) {
  MatrixShape shape;
  shape.group = between(random, 0, 1) ? size_t{16} << between(random, 0, 4) : 8 * between(random, 1, 32);
  shape.width = shape.group * between(random, 1, 9);
  shape.rows = between(random, 1, 150);
  shape.bits = between(random, 0, 1) ? 4 : 8;
  shape.symmetric = between(random, 0, 1);
  shape.float32_scales = between(random, 0, 1);
  const size_t rows = between(random, 0, 3) ? between(random, 1, 20) : between(random, 60, 80);
  const Naive naive = random_matrix(random, shape);
  const std::vector<uint8_t> codes = of_bits(naive.codes, shape.width, shape.bits),
                             points = of_bits(naive.points, shape.groups(), shape.bits);
  const std::vector<float> x = random_rows(random, shape, rows);

  const Aligned packed(shape.bytes()), scratch(product_scratch(shape, rows));
  pack(shape, {codes.data(), naive.scales.data(), shape.symmetric ? nullptr : points.data()}, 0, shape.tiles(),
       packed.data);
  const Matrix matrix{shape, packed.data};
  const Input input{x.data(), false, nullptr, nullptr, 0.0f};
  std::vector<float> y(rows * shape.rows), again(rows * shape.rows);
  multiply_all(kernels, matrix, input, rows, nullptr, y.data(), scratch.data, {forwards, nullptr, 1});
  multiply_all(kernels, matrix, input, rows, nullptr, again.data(), scratch.data, {backwards, nullptr, 5});

  const char* wrong = std::memcmp(y.data(), again.data(), y.size() * 4) ? "threads change it" : nullptr;
  size_t row = 0, column = 0;
  for (size_t r = 0; r < rows && wrong == nullptr; ++r)
    for (size_t n = 0; n < shape.rows && wrong == nullptr; ++n)
      if (!right(shape, naive, &x[r * shape.width], n, y[r * shape.rows + n])) {
        wrong = "another value";
        row = r, column = n;
      }
  if (wrong == nullptr) wrong = check_made(kernels, random, matrix, naive, rows);
  if (wrong != nullptr)
    std::printf("%s: %s at row %zu of %zu, column %zu: N %zu, K %zu, G %zu, %u bits, symmetric %d, float32 scales %d\n",
                kernels.name, wrong, row, rows, column, shape.rows, shape.width, shape.group, shape.bits,
                shape.symmetric, shape.float32_scales);
  return wrong == nullptr;
}

}  // namespace

int main(int count, char** arguments) { return checked(count, arguments, check); }
