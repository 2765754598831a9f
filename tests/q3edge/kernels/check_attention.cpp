// Checks the kernels of attention against naive code in float64, over random shapes (check.h).
//
// test_native.py compiles this with the sources and with sanitizers, and for other CPUs than that of the machine.
// Every buffer has just the bytes that it needs; what the cache does not hold is NaN, or 127.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention.h"
#include "check.h"

namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
constexpr size_t kFewTokens = 16;  // up to here new tokens are read as an int8 cache holds them
constexpr float kEpsilon = 1e-6f;

Floats normal(Random& random, size_t count, float deviation = 1.0f) {
  std::normal_distribution<float> distribution(0.0f, deviation);
  Floats found(count);
  for (float& value : found) value = distribution(random);
  return found;
}

// A cache of either type: `floats` or `codes` with `scales` is empty.
struct Cache {
  Floats floats, scales;
  std::vector<int8_t> codes;

  void* data() { return codes.empty() ? static_cast<void*>(floats.data()) : codes.data(); }
  double at(size_t place, size_t channel) const {
    return codes.empty() ? static_cast<double>(floats[place]) : codes[place] * static_cast<double>(scales[channel]);
  }
};

// A head after its norm, and after rotation where there are angles.
Doubles prepared(const float* x, const Floats& norm, size_t size, const float* cos, const float* sin) {
  Doubles found(x, x + size);
  if (!norm.empty()) {
    double squares = 0.0;
    for (const double value : found) squares += value * value;
    for (size_t d = 0; d < size; ++d) found[d] *= norm[d] / std::sqrt(squares / static_cast<double>(size) + kEpsilon);
  }
  const size_t half = size / 2;
  for (size_t i = 0; cos != nullptr && i < half; ++i) {
    const double a = found[i], b = found[half + i];
    found[i] = a * cos[i] - b * sin[i];
    found[half + i] = b * cos[i] + a * sin[i];
  }
  return found;
}

bool check(const Kernels& kernels, Random& random) {
  AttentionShape shape{};
  const size_t tokens[] = {1, 1, 3, 16, 17, 70}, sizes[] = {2, 6, 16, 20, 64, 80, 128}, room[] = {0, 1, 40, 600};
  shape.batch = between(random, 1, 3);
  shape.tokens = tokens[between(random, 0, 5)];
  shape.all = shape.batch * shape.tokens;
  shape.kv_heads = between(random, 1, 2);
  shape.heads = shape.kv_heads * between(random, 1, 5);
  shape.head_dim = sizes[between(random, 0, 6)];
  shape.capacity = shape.tokens + room[between(random, 0, 3)];
  shape.positions = shape.capacity;
  shape.int8 = between(random, 0, 1) == 1;
  const bool joined = between(random, 0, 1) == 1, normed = between(random, 0, 1) == 1;
  const size_t size = shape.head_dim, half = size / 2, group = shape.heads / shape.kv_heads;
  const size_t queries = shape.heads * size, keys = shape.kv_heads * size, all = shape.batch * shape.tokens;

  Floats query = normal(random, all * (joined ? queries + 2 * keys : queries), 2.0f);
  Floats key = normal(random, joined ? 0 : all * keys), value = normal(random, joined ? 0 : all * keys);
  const Floats query_norm = normal(random, normed ? size : 0), key_norm = normal(random, normed ? size : 0);
  Floats cos(shape.positions * half), sin(cos.size()), context(all * queries), again(all * queries);
  for (size_t i = 0; i < cos.size(); ++i) {
    const double angle = static_cast<double>(i / half) * std::pow(1e4, -static_cast<double>(i % half) / half);
    cos[i] = static_cast<float>(std::cos(angle));
    sin[i] = static_cast<float>(std::sin(angle));
  }
  std::vector<int32_t> seqlens, counts, starts;
  const size_t shift = between(random, 0, shape.batch - 1);
  for (size_t row = 0; row < shape.batch; ++row) {
    const size_t count = between(random, 0, 1) ? shape.tokens : between(random, 0, shape.tokens);
    counts.push_back(static_cast<int32_t>(count));
    starts.push_back(static_cast<int32_t>((row + shift) % shape.batch * shape.tokens));
    const size_t least = std::max(count, size_t{1});
    seqlens.push_back(static_cast<int32_t>(between(random, least, shape.capacity)) - 1);
  }
  Cache caches[2];
  for (Cache& cache : caches) {
    const size_t count = shape.batch * shape.kv_heads * shape.capacity * size;
    if (shape.int8) {
      for (size_t i = 0; i < shape.kv_heads * size; ++i)
        cache.scales.push_back(0.01f + 0.001f * static_cast<float>(between(random, 0, 20)));
      cache.codes.assign(count, 127);
    } else {
      cache.floats.assign(count, std::numeric_limits<float>::quiet_NaN());
    }
    for (size_t i = 0; i < count; ++i) {
      const size_t position = i / size % shape.capacity, row = i / size / shape.capacity / shape.kv_heads;
      if (static_cast<int64_t>(position) > seqlens[row] - counts[row]) continue;
      if (shape.int8)
        cache.codes[i] = static_cast<int8_t>(static_cast<int>(between(random, 0, 255)) - 128);
      else
        cache.floats[i] = normal(random, 1)[0];
    }
  }

  AttentionCall call{};
  call.shape = shape;
  call.query = query.data();
  call.key = joined ? query.data() + queries : key.data();
  call.value = joined ? query.data() + queries + keys : value.data();
  call.query_stride = joined ? queries + 2 * keys : queries;
  call.key_stride = call.value_stride = joined ? queries + 2 * keys : keys;
  call.query_norm = normed ? query_norm.data() : nullptr;
  call.key_norm = normed ? key_norm.data() : nullptr;
  call.epsilon = kEpsilon;
  call.seqlens = seqlens.data();
  call.counts = counts.data();
  call.starts = shift > 0 ? starts.data() : nullptr;
  call.cos = cos.data();
  call.sin = sin.data();
  call.key_scale = shape.int8 ? caches[0].scales.data() : nullptr;
  call.value_scale = shape.int8 ? caches[1].scales.data() : nullptr;
  if (attention_problem(call) != nullptr) return false;
  const Cache before[2] = {caches[0], caches[1]};
  for (Floats* out : {&again, &context}) {
    const bool first = out == &again;
    const Aligned scratch(kernels.attention.scratch(shape, first ? 5 : 1));
    for (size_t i = 0; i < 2; ++i) caches[i] = before[i];
    call.keys = caches[0].data();
    call.values = caches[1].data();
    call.context = out->data();
    call.scratch = scratch.data;
    kernels.attention.attend(call, {first ? backwards : forwards, nullptr, first ? size_t{5} : size_t{1}});
  }

  const char* wrong = std::memcmp(context.data(), again.data(), context.size() * 4) ? "threads change it" : nullptr;
  for (size_t row = 0; row < shape.batch && wrong == nullptr; ++row) {
    const auto count = static_cast<size_t>(counts[row]);
    const size_t length = static_cast<size_t>(seqlens[row]) + 1, past = length - count;
    for (size_t head = 0; head < shape.heads && wrong == nullptr; ++head) {
      const size_t of = head / group, place = (row * shape.kv_heads + of) * shape.capacity * size;
      std::vector<Doubles> seen[2];
      for (size_t position = 0; position < length && count > 0; ++position) {
        const size_t token = first_token(call, row) + position - past, angles = position * half;
        for (size_t i = 0; i < 2; ++i) {
          Doubles held(size);
          for (size_t d = 0; d < size; ++d) held[d] = caches[i].at(place + position * size + d, of * size + d);
          if (position >= past) {
            const float* from = i == 0 ? call.key + token * call.key_stride : call.value + token * call.value_stride;
            const Doubles fresh = i == 0 ? prepared(from + of * size, key_norm, size, &cos[angles], &sin[angles])
                                         : prepared(from + of * size, {}, size, nullptr, nullptr);
            for (size_t d = 0; d < size; ++d) {
              const double step = shape.int8 ? caches[i].scales[of * size + d] : 0.0;
              const double nearest = shape.int8 ? std::min(std::max(fresh[d], -128 * step), 127 * step) : fresh[d];
              if (!(std::fabs(nearest - held[d]) <= 0.5001 * step + 2e-6 * (1 + std::fabs(fresh[d]))))
                wrong = "another key or value is stored";
            }
            if (count > kFewTokens) held = fresh;
          }
          seen[i].push_back(held);
        }
      }
      for (size_t token = 0; token < shape.tokens && wrong == nullptr; ++token) {
        const size_t among_all = first_token(call, row) + token;
        const float* found = &context[(among_all * shape.heads + head) * size];
        Doubles want(size);
        double error = 0.0;
        if (token < count) {
          const size_t angles = (past + token) * half;
          const Doubles q = prepared(call.query + among_all * call.query_stride + head * size,
                                     query_norm, size, &cos[angles], &sin[angles]);
          Doubles scores;
          double magnitude = 0.0, largest = 0.0, total = 0.0;
          for (size_t i = 0; i <= past + token; ++i) {
            double score = 0.0, absolute = 0.0;
            for (size_t d = 0; d < size; ++d) {
              score += q[d] * seen[0][i][d];
              absolute += std::fabs(q[d] * seen[0][i][d]);
              largest = std::max(largest, std::fabs(seen[1][i][d]));
            }
            scores.push_back(score / std::sqrt(static_cast<double>(size)));
            magnitude = std::max(magnitude, absolute / std::sqrt(static_cast<double>(size)));
          }
          const double top = *std::max_element(scores.begin(), scores.end());
          for (size_t i = 0; i < scores.size(); ++i) {
            const double weight = std::exp(scores[i] - top);
            total += weight;
            for (size_t d = 0; d < size; ++d) want[d] += weight * seen[1][i][d];
          }
          for (double& each : want) each /= total;
          // Roundings of scores, twice, and of sums over the keys, as in tests/helpers/attention.py.
          error = (2.0 * (static_cast<double>(size) + 16) * magnitude + 2.0 * static_cast<double>(length) + 16) *
                  std::ldexp(largest, -24);
        }
        for (size_t d = 0; d < size; ++d)
          if (!(std::fabs(found[d] - want[d]) <= error)) wrong = "another context";
      }
    }
  }
  if (wrong != nullptr)
    std::printf("%s: %s: B %zu, S %zu, heads %zu of %zu, D %zu, C %zu, int8 %d, joined %d, normed %d\n", kernels.name,
                wrong, shape.batch, shape.tokens, shape.heads, shape.kv_heads, size, shape.capacity, shape.int8, joined,
                normed);
  return wrong == nullptr;
}

}  // namespace

int main(int count, char** arguments) { return checked(count, arguments, check); }
