#include "experts.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace q3edge {
namespace {

constexpr float kLeastShare = 1e-8f;    // onnxruntime's operator leaves out what has less
constexpr size_t kTilesAtOnce = 4;      // which stay in the cache while an expert's rows pass
constexpr size_t kRowsAtOnce = 128;     // of an expert, whose results are in a buffer before they are added

size_t smaller(size_t x, size_t y) { return x < y ? x : y; }

// Parts of scratch memory, each at a multiple of 64; of none, to count its bytes.
class Room {
 public:
  explicit Room(void* memory) : memory_(static_cast<uint8_t*>(memory)) {}

  template <typename T>
  T* take(size_t count) {
    const size_t begin = taken_;
    taken_ += aligned(count * sizeof(T));
    return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + begin);
  }
  Activations activations(const MatrixShape& shape, size_t rows) {
    return {take<int8_t>(rows * shape.width), take<float>(rows * shape.groups()), take<int32_t>(rows * shape.groups())};
  }
  size_t taken() const { return taken_; }

 private:
  uint8_t* memory_;
  size_t taken_ = 0;
};

struct Work {
  Work(const Kernels& kernels_, const Experts& experts_, size_t rows_, void* scratch)
      : kernels(kernels_), experts(experts_), rows(rows_), room(scratch) {
    const size_t most = rows * experts.chosen;
    chosen = room.take<uint32_t>(most);
    shares_of_rows = room.take<float>(most);
    starts = room.take<float>(rows);
    numbers = room.take<uint32_t>(experts.count);
    begins = room.take<size_t>(experts.count + 1);
    sources = room.take<uint32_t>(most);
    shares = room.take<float>(most);
    x_codes = room.activations(experts.gate_up.shape, most);
    hidden = room.take<float>(most * experts.gate_up.shape.rows);
    hidden_codes = room.activations(experts.down.shape, most);
  }

  const Kernels& kernels;
  const Experts& experts;
  size_t rows;
  Room room;
  const float* x = nullptr;
  float* y = nullptr;
  // What rows chose [M, chosen], with the shares; and what their results are before any is added: 0 or NaN.
  uint32_t* chosen;
  float *shares_of_rows, *starts;
  // Of experts that were chosen, in order: their numbers, and where each one's rows begin among those of all.
  size_t active = 0;
  uint32_t* numbers;
  size_t* begins;
  // The rows of all of them, expert by expert: which rows of x they are, and their shares.
  uint32_t* sources;
  float* shares;
  Activations x_codes, hidden_codes;
  float* hidden;  // gate and up of each
  size_t tiles_at_once = 0, tile_blocks = 0, experts_at_once = 0;

  size_t count(size_t i) const { return begins[i + 1] - begins[i]; }
  // Rows of x as the expert at place `i` reads them: one row is rounded once for all.
  Activations activations(size_t i) const { return from(x_codes, experts.gate_up.shape, rows == 1 ? 0 : begins[i]); }
  float* hidden_rows(size_t i) const { return hidden + begins[i] * experts.gate_up.shape.rows; }
  Range panels(size_t count) const { return {0, blocks(count, kernels.panel_rows)}; }

  static Activations from(const Activations& all, const MatrixShape& shape, size_t row) {
    return {all.codes + row * shape.width, all.scales + row * shape.groups(),
            all.negative_sums + row * shape.groups()};
  }
};

// The matrix of the expert with this number.
Matrix of_expert(const Matrix& first, size_t number) {
  return {first.shape, first.data + number * first.shape.bytes()};
}

// Some tiles of a matrix, which are one themselves.
Matrix tiles_of(const Matrix& matrix, size_t tile, size_t count) {
  MatrixShape shape = matrix.shape;
  shape.rows = smaller(count * kTileRows, shape.rows - tile * kTileRows);
  return {shape, matrix.data + tile * shape.tile_bytes()};
}

// Find the largest logits of a row, in order, and their shares; false: there are no shares.
bool route(const float* logits, size_t count, size_t wanted, uint32_t* chosen, float* shares) {
  size_t found = 0;
  for (size_t i = 0; i < count; ++i) {
    const float logit = logits[i];
    if (std::isnan(logit)) return false;
    if (found == wanted && shares[found - 1] > logit) continue;
    if (found < wanted) ++found;
    size_t place = found - 1;
    for (; place > 0 && !(shares[place - 1] > logit); --place) {
      shares[place] = shares[place - 1];
      chosen[place] = chosen[place - 1];
    }
    shares[place] = logit;
    chosen[place] = static_cast<uint32_t>(i);
  }
  const float largest = shares[0];
  float sum = 0.0f;
  for (size_t j = 0; j < wanted; ++j) sum += shares[j] = std::exp(shares[j] - largest);
  for (size_t j = 0; j < wanted; ++j) shares[j] *= 1.0f / sum;
  return std::isfinite(largest);
}

// Choose experts for all rows, and sort the rows by expert.
void route_all(Work& work, const float* logits) {
  const size_t count = work.experts.count, each = work.experts.chosen;
  for (size_t e = 0; e <= count; ++e) work.begins[e] = 0;
  for (size_t row = 0; row < work.rows; ++row) {
    float* shares = work.shares_of_rows + row * each;
    const bool routed = route(logits + row * count, count, each, work.chosen + row * each, shares);
    work.starts[row] = routed ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    for (size_t j = 0; j < each; ++j) {
      if (!routed || !(shares[j] > kLeastShare)) shares[j] = 0.0f;
      if (shares[j] > 0.0f) ++work.begins[work.chosen[row * each + j] + 1];
    }
  }
  for (size_t e = 0; e < count; ++e) work.begins[e + 1] += work.begins[e];
  for (size_t i = 0; i < work.rows * each; ++i) {
    if (work.shares_of_rows[i] == 0.0f) continue;
    const size_t place = work.begins[work.chosen[i]]++;  // which is where the next expert's begin, in the end
    work.sources[place] = static_cast<uint32_t>(i / each);
    work.shares[place] = work.shares_of_rows[i];
  }
  size_t begin = 0;
  for (size_t e = 0; e < count; ++e) {
    const size_t end = work.begins[e];
    if (end == begin) continue;
    work.numbers[work.active] = static_cast<uint32_t>(e);
    work.begins[work.active++] = begin;
    begin = end;
  }
  work.begins[work.active] = begin;
}

void round_x(void* data, size_t i) {
  const auto& work = *static_cast<const Work*>(data);
  const Input input{work.x, false, nullptr, nullptr, 0.0f, work.sources + work.begins[i]};
  const size_t count = work.count(i);
  work.kernels.quantize(work.experts.gate_up.shape, input, count, work.panels(count), work.activations(i));
}

// Rounds as many rows at once as are multiplied at once: how codes lie may depend on how many there are.
void round_hidden(void* data, size_t i) {
  const auto& work = *static_cast<const Work*>(data);
  const MatrixShape& shape = work.experts.down.shape;
  for (size_t first = work.begins[i], count; first < work.begins[i + 1]; first += count) {
    count = smaller(kRowsAtOnce, work.begins[i + 1] - first);
    const Input input{work.hidden + first * work.experts.gate_up.shape.rows, true, nullptr, nullptr, 0.0f};
    work.kernels.quantize(shape, input, count, work.panels(count), Work::from(work.hidden_codes, shape, first));
  }
}

// Some tiles of some experts' gate and up.
void multiply_gate_up(void* data, size_t block) {
  const auto& work = *static_cast<const Work*>(data);
  const Matrix& first = work.experts.gate_up;
  const Range tiles = part(block % work.tile_blocks, work.tiles_at_once, first.shape.tiles());
  const Range some = part(block / work.tile_blocks, work.experts_at_once, work.active);
  for (size_t i = some.begin; i < some.end; ++i)
    work.kernels.multiply(of_expert(first, work.numbers[i]), work.activations(i), work.count(i),
                          work.panels(work.count(i)), tiles, nullptr, work.hidden_rows(i));
}

// Add to rows of y, from column `column` on, what the expert at place `i` makes by some tiles of its matrix.
void add_tiles(const Work& work, size_t i, const Matrix& tiles, size_t column) {
  float buffer[kRowsAtOnce * kTilesAtOnce * kTileRows];
  const size_t columns = tiles.shape.rows, width = work.experts.down.shape.rows, end = work.begins[i + 1];
  for (size_t first = work.begins[i], count; first < end; first += count) {
    count = smaller(kRowsAtOnce, end - first);
    work.kernels.multiply(tiles, Work::from(work.hidden_codes, tiles.shape, first), count, work.panels(count),
                          {0, tiles.shape.tiles()}, nullptr, buffer);
    for (size_t r = 0; r < count; ++r) {
      float* to = work.y + work.sources[first + r] * width + column;
      const float share = work.shares[first + r];
      for (size_t c = 0; c < columns; ++c) to[c] += share * buffer[r * columns + c];
    }
  }
}

// Some columns of the result: those of all experts, one after the other.
void multiply_down(void* data, size_t block) {
  const auto& work = *static_cast<const Work*>(data);
  const Matrix& first = work.experts.down;
  const size_t width = first.shape.rows;
  const Range tiles = part(block, work.tiles_at_once, first.shape.tiles());
  const size_t begin = tiles.begin * kTileRows, end = smaller(tiles.end * kTileRows, width);
  for (size_t row = 0; row < work.rows; ++row)
    for (size_t c = begin; c < end; ++c) work.y[row * width + c] = work.starts[row];
  for (size_t i = 0; i < work.active; ++i)
    for (size_t tile = tiles.begin, count; tile < tiles.end; tile += count) {
      count = smaller(kTilesAtOnce, tiles.end - tile);
      add_tiles(work, i, tiles_of(of_expert(first, work.numbers[i]), tile, count), tile * kTileRows);
    }
}

// Cut the tiles of a product into blocks, of no fewer than `least`.
void cut(Work& work, const MatrixShape& shape, size_t least, size_t threads) {
  const size_t shared = blocks(shape.tiles(), threads * kBlocksPerThread);
  work.tiles_at_once = shared <= least         ? least
                       : shared < kTilesAtOnce ? shared
                                               : blocks(shared, kTilesAtOnce) * kTilesAtOnce;
  work.tile_blocks = blocks(shape.tiles(), work.tiles_at_once);
}

void for_each_expert(Work& work, void (*body)(void*, size_t), const ParallelFor& parallel) {
  if (work.rows > 1) return parallel.run(parallel.pool, work.active, body, &work);
  for (size_t i = 0; i < work.active; ++i) body(&work, i);  // too little to share
}

}  // namespace

size_t expert_scratch(const Experts& experts, size_t rows) {
  static const Kernels none = {};
  return Work(none, experts, rows, nullptr).room.taken();
}

void compute_experts(const Kernels& kernels, const Experts& experts, const float* x, const float* logits, size_t rows,
                     float* y, void* scratch, const ParallelFor& parallel) {
  if (rows == 0) return;
  Work work(kernels, experts, rows, scratch);
  work.x = x;
  work.y = y;
  route_all(work, logits);

  if (rows > 1) {
    for_each_expert(work, round_x, parallel);
  } else if (work.active > 0) {
    round_x(&work, 0);
  }
  cut(work, experts.gate_up.shape, kTilesAtOnce, parallel.threads);
  work.experts_at_once = blocks(work.active, blocks(parallel.threads * kBlocksPerThread, work.tile_blocks));
  if (work.active > 0)
    parallel.run(parallel.pool, work.tile_blocks * blocks(work.active, work.experts_at_once), multiply_gate_up, &work);
  for_each_expert(work, round_hidden, parallel);
  cut(work, experts.down.shape, 1, parallel.threads);
  parallel.run(parallel.pool, work.tile_blocks, multiply_down, &work);
}

}  // namespace q3edge
