// Checks the experts' kernels against products of single rows, over random shapes and routers (check.h).
//
// A row's result is bit for bit that of its own products, each computed alone, summed in the order of experts.
// Every buffer has just the bytes that it needs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "experts.h"
#include "pack.h"

namespace {

MatrixShape random_shape(Random& random, size_t rows, size_t width, unsigned bits) {
  MatrixShape shape{rows, width, 8, bits, between(random, 0, 1) != 0, between(random, 0, 1) != 0};
  for (size_t group : {16, 32, 64, 128, 256})
    if (width % group == 0 && between(random, 0, 1)) shape.group = group;
  return shape;
}

// Random matrices of all experts, packed.
std::unique_ptr<Aligned> random_matrices(Random& random, const MatrixShape& shape, size_t count) {
  auto packed = std::make_unique<Aligned>(count * shape.bytes());
  std::uniform_int_distribution<int> byte(0, 255);
  for (size_t e = 0; e < count; ++e) {
    std::vector<uint8_t> codes(shape.rows * shape.width * shape.bits / 8);
    std::vector<uint8_t> points(shape.rows * ((shape.groups() * shape.bits + 7) / 8));
    std::vector<float> scales(shape.rows * shape.groups());
    for (std::vector<uint8_t>* values : {&codes, &points})
      for (uint8_t& value : *values) value = static_cast<uint8_t>(byte(random));
    for (float& scale : scales) scale = static_cast<float>(between(random, 1, 64)) / (shape.bits == 4 ? 2048 : 32768);
    pack(shape, {codes.data(), scales.data(), shape.symmetric ? nullptr : points.data()}, 0, shape.tiles(),
         packed->data + e * shape.bytes());
  }
  return packed;
}

// Logits with equal ones among them, far ones, infinite ones, and NaNs in some rows.
std::vector<float> random_logits(Random& random, size_t rows, size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> logits(rows * count);
  for (size_t r = 0; r < rows; ++r) {
    const size_t kind = between(random, 0, 9);
    for (size_t e = 0; e < count; ++e) {
      float& logit = logits[r * count + e];
      logit = kind == 0 ? 1.0f : kind == 1 ? std::round(normal(random)) : kind == 2 ? 30 * normal(random) : normal(random);
    }
    float& one = logits[r * count + between(random, 0, count - 1)];
    if (kind == 3) one = std::numeric_limits<float>::quiet_NaN();
    if (kind == 4) one = std::numeric_limits<float>::infinity();
    if (kind == 5) one = -std::numeric_limits<float>::infinity();
  }
  return logits;
}

std::vector<float> product(const Kernels& kernels, const Matrix& first, size_t number, const float* row, bool gated) {
  const Matrix matrix{first.shape, first.data + number * first.shape.bytes()};
  const Aligned scratch(product_scratch(matrix.shape, 1));
  std::vector<float> y(matrix.shape.rows);
  multiply_all(kernels, matrix, {row, gated, nullptr, nullptr, 0.0f}, 1, nullptr, y.data(), scratch.data,
               {forwards, nullptr, 1});
  return y;
}

std::vector<float> expected_row(const Kernels& kernels, const Experts& experts, const float* x, const float* logits) {
  std::vector<size_t> order(experts.count);
  std::iota(order.begin(), order.end(), size_t{0});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (std::any_of(logits, logits + experts.count, [](float logit) { return std::isnan(logit); }))
    return std::vector<float>(experts.down.shape.rows, nan);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a > b);
  });
  order.resize(experts.chosen);
  const float largest = logits[order[0]];
  if (!std::isfinite(largest)) return std::vector<float>(experts.down.shape.rows, nan);
  float sum = 0.0f;
  for (const size_t e : order) sum += std::exp(logits[e] - largest);
  std::sort(order.begin(), order.end());
  std::vector<float> y(experts.down.shape.rows);
  for (const size_t e : order) {
    const float share = std::exp(logits[e] - largest) * (1.0f / sum);
    if (!(share > 1e-8f)) continue;
    const std::vector<float> hidden = product(kernels, experts.gate_up, e, x, false);
    const std::vector<float> made = product(kernels, experts.down, e, hidden.data(), true);
    for (size_t n = 0; n < y.size(); ++n) y[n] += share * made[n];
  }
  return y;
}

bool check(const Kernels& kernels, Random& random) {
  const size_t width = 16 * between(random, 1, 40), hidden = 8 * between(random, 1, 40);
  const unsigned bits = between(random, 0, 1) ? 4 : 8;
  Experts experts{};
  experts.count = between(random, 1, 12);
  experts.chosen = between(random, 1, experts.count);
  experts.gate_up.shape = random_shape(random, 2 * hidden, width, bits);
  experts.down.shape = random_shape(random, width, hidden, bits);
  const auto gate_ups = random_matrices(random, experts.gate_up.shape, experts.count);
  const auto downs = random_matrices(random, experts.down.shape, experts.count);
  experts.gate_up.data = gate_ups->data;
  experts.down.data = downs->data;
  const size_t rows = between(random, 0, 2)   ? between(random, 1, 8)
                      : between(random, 0, 3) ? between(random, 9, 70)
                                              : between(random, 129, 200);
  std::vector<float> x(rows * width), y(x.size()), again(x.size());
  std::normal_distribution<float> normal;
  for (float& value : x) value = normal(random);
  const std::vector<float> logits = random_logits(random, rows, experts.count);
  if (!experts.valid()) return std::puts("the experts are not valid"), false;
  for (const size_t threads : {1, 7}) {
    const Aligned scratch(expert_scratch(experts, rows));
    std::vector<float>& to = threads == 1 ? y : again;
    compute_experts(kernels, experts, x.data(), logits.data(), rows, to.data(), scratch.data,
                    {threads == 1 ? forwards : backwards, nullptr, threads});
  }
  // NaNs may have other bits.
  const auto same = [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  for (size_t r = 0; r < rows; ++r) {
    const std::vector<float> wanted =
        expected_row(kernels, experts, &x[r * width], &logits[r * experts.count]);
    for (size_t n = 0; n < width; ++n) {
      const bool shared = same(y[r * width + n], again[r * width + n]);
      if (shared && same(y[r * width + n], wanted[n])) continue;
      std::printf("%s: %s at row %zu of %zu, column %zu: %g is %g; %zu of %zu experts, H %zu, I %zu, %u bits\n",
                  kernels.name, shared ? "another value" : "threads change it", r, rows, n,
                  static_cast<double>(wanted[n]), static_cast<double>(y[r * width + n]), experts.chosen, experts.count,
                  width, hidden, bits);
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) { return checked(count, arguments, check); }
