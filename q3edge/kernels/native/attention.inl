// Attention over a KV cache (attention.h), from the primitives `Vec` of an instruction set.
// vectors.inl comes before it.
namespace attention {

#include "attention_vectors.inl"
#include "attention_dots.inl"
#include "attention_panels.inl"

constexpr size_t kFewTokens = 16;    // up to here a row reads its new tokens as they are stored
constexpr size_t kTileQueries = 128;
constexpr size_t kMostPieces = 16;   // into which the tokens of a row are cut
constexpr size_t kPiece = 512;       // a multiple of which a piece has

// Where things lie in the scratch memory, in floats.
struct AttentionPlan {
  size_t stride;  // of a query's values
  size_t worker;  // of a worker's memory, and what is in it:
  size_t queries, rotated, normed, total, partial, scores, keys, values;
  size_t new_keys, pieces, ends;  // behind the workers' memory
  size_t floats;

  AttentionPlan(const AttentionShape& shape, size_t threads) {
    const size_t group = shape.heads / shape.kv_heads, few = smaller(shape.tokens, kFewTokens) * group;
    const size_t most = padded(shape.tokens > kFewTokens ? larger(few, larger(group, kTileQueries)) : few);
    const bool unrounded = shape.int8 && shape.tokens > kFewTokens;
    stride = rounded_up(shape.head_dim, kPanel);
    worker = 0;
    queries = take(worker, most * stride);
    rotated = take(worker, kPanel * stride);
    normed = take(worker, stride);
    total = take(worker, State::floats(most, stride));
    partial = take(worker, State::floats(most, stride));
    scores = take(worker, larger(kSpan * 4 + Vec::kDots, kBlock * kPanel));
    keys = take(worker, kBlock * stride);
    values = take(worker, kBlock * stride);
    floats = worker * larger(threads, 1);
    new_keys = take(floats, unrounded ? shape.all * shape.kv_heads * shape.head_dim : 0);
    const size_t cut = threads > 1 ? smaller(shape.batch * shape.kv_heads, kItemsOfThread * threads) : 0;
    pieces = take(floats, cut * kMostPieces * State::floats(padded(few), stride));
    ends = take(floats, shape.batch * (sizeof(size_t) / sizeof(float)));
  }

  static constexpr size_t kItemsOfThread = 2;  // with fewer, rows are cut into pieces
  static size_t padded(size_t queries) { return rounded_up(queries, kPanel); }
  // Tokens of a piece of a row: they depend on its length alone, so that sums do, too.
  static size_t piece_tokens(size_t length) { return rounded_up((length + kMostPieces - 1) / kMostPieces, kPiece); }
  static size_t piece_count(size_t length) { return (length - 1) / piece_tokens(length) + 1; }

 private:
  static size_t take(size_t& end, size_t count) {
    const size_t start = end;
    end += rounded_up(count, 16);
    return start;
  }
};

template <typename T>
class AttentionPass {
 public:
  AttentionPass(const AttentionCall& call, const ParallelFor& parallel)
      : call_(call),
        shape_(call.shape),
        parallel_(parallel),
        plan_(call.shape, parallel.threads),
        group_(shape_.heads / shape_.kv_heads),
        scratch_(static_cast<float*>(call.scratch)),
        ends_(reinterpret_cast<size_t*>(scratch_ + plan_.ends)),
        factor_(kLog2e / sqrtf(static_cast<float>(shape_.head_dim))),
        tile_tokens_(larger(kTileQueries / group_, 1)) {}

  void run() {
    cut_ = parallel_.threads > 1 &&
           count_items(&AttentionPass::attending_items) < AttentionPlan::kItemsOfThread * parallel_.threads;
    while (tile_tokens_ * group_ > kPanel && tile_tokens_ > 1 &&
           count_items(&AttentionPass::attending_items) < 2 * AttentionPlan::kItemsOfThread * parallel_.threads)
      tile_tokens_ /= 2;
    clear_padding();
    for_each<&AttentionPass::storing_items, &AttentionPass::store_item>();
    for_each<&AttentionPass::attending_items, &AttentionPass::attend_item>();
    for_each<&AttentionPass::merging_items, &AttentionPass::merge_item>();
  }

 private:
  struct Row {
    size_t number, start, count, past, length;
    bool few() const { return count <= kFewTokens; }
    size_t pieces() const { return AttentionPlan::piece_count(length); }
  };
  // Keys and values that queries see, from one position on.
  template <typename U>
  struct Seen {
    const U* keys;             // [tokens, D]
    const float* key_scale;    // or null
    const float* values;       // [tokens, stride] if not null, else they are in `codes`
    const U* codes;            // [tokens, D]
    size_t value_stride;
    const float* value_scale;  // or null
    size_t begin, end;         // positions
  };
  // Up to here scalar products are faster than panels.
  static constexpr size_t kFewQueries = sizeof(T) == 1 ? Vec::kFewOfInt8 : Vec::kFewOfFloat;

  using Count = size_t (AttentionPass::*)(const Row&) const;
  using Do = void (AttentionPass::*)(float*, const Row&, size_t) const;

  Row row(size_t number) const {
    const auto count = static_cast<size_t>(call_.counts[number]);
    if (count == 0) return {number, 0, 0, 0, 0};
    const size_t length = static_cast<size_t>(call_.seqlens[number]) + 1;
    return {number, first_token(call_, number), count, length - count, length};
  }

  // Items of all rows; also notes where those of each row end.
  size_t count_items(Count count) const {
    size_t end = 0;
    for (size_t number = 0; number < shape_.batch; ++number) ends_[number] = end += (this->*count)(row(number));
    return end;
  }

  // Do the items of all rows, on all threads.
  template <Count COUNT, Do DO>
  void for_each() {
    const size_t items = count_items(COUNT);
    if (items == 0) return;
    for_each_item(
        parallel_, items,
        [](void* data, size_t worker, size_t item) {
          const auto& pass = *static_cast<const AttentionPass*>(data);
          size_t number = 0;
          while (item >= pass.ends_[number]) ++number;
          (pass.*DO)(pass.scratch_ + worker * pass.plan_.worker, pass.row(number),
                     number == 0 ? item : item - pass.ends_[number - 1]);
        },
        this);
  }

  void clear_padding() const {
    size_t tokens = 0;
    for (size_t number = 0; number < shape_.batch; ++number) tokens += static_cast<size_t>(call_.counts[number]);
    if (tokens < shape_.all) memset(call_.context, 0, shape_.all * shape_.heads * shape_.head_dim * sizeof(float));
  }

  size_t storing_items(const Row& row) const {
    return row.few() ? 0 : shape_.kv_heads * ((row.count - 1) / kBlock + 1);
  }
  size_t attending_items(const Row& row) const {
    if (row.count == 0) return 0;
    return shape_.kv_heads * (!row.few() ? tiles(row) : cut_ ? row.pieces() : 1);
  }
  size_t merging_items(const Row& row) const {
    return cut_ && row.count > 0 && row.few() && row.pieces() > 1 ? shape_.kv_heads : 0;
  }
  size_t tiles(const Row& row) const { return (row.count - 1) / tile_tokens_ + 1; }

  void store_item(float* memory, const Row& row, size_t item) const {
    const size_t blocks = (row.count - 1) / kBlock + 1, begin = row.past + item % blocks * kBlock;
    store(memory, row, item / blocks, begin, smaller(begin + kBlock, row.length));
  }

  void attend_item(float* memory, const Row& row, size_t item) const {
    if (!row.few()) {  // last tiles, which see most keys, first
      attend_tile(memory, row, item / tiles(row), tiles(row) - 1 - item % tiles(row));
    } else if (cut_ && row.pieces() > 1) {
      const size_t head = item / row.pieces(), piece = item % row.pieces();
      attend_pieces(memory, row, head, piece, piece + 1, piece_state(row, head, piece));
    } else {
      const State total = State::at(memory + plan_.total, AttentionPlan::padded(row.count * group_));
      attend_pieces(memory, row, item, 0, row.pieces(), total);
      write(row, item, 0, row.count * group_, total, value_scale(item));
    }
  }

  void merge_item(float*, const Row& row, size_t head) const {
    const size_t queries = row.count * group_;
    const State total = piece_state(row, head, 0);
    for (size_t piece = 1; piece < row.pieces(); ++piece)
      merge(total, piece_state(row, head, piece), queries, plan_.stride);
    write(row, head, 0, queries, total, value_scale(head));
  }

  State piece_state(const Row& row, size_t head, size_t piece) const {
    size_t before = 0;
    for (size_t number = 0; number < row.number; ++number) before += call_.counts[number] > 0 ? 1 : 0;
    const size_t few = AttentionPlan::padded(smaller(shape_.tokens, kFewTokens) * group_);
    const size_t place = (before * shape_.kv_heads + head) * kMostPieces + piece;
    return State::at(scratch_ + plan_.pieces + place * State::floats(few, plan_.stride), few);
  }

  // Gather what all queries of a row with few tokens see in some of its pieces, whose new tokens are stored on the way.
  void attend_pieces(float* memory, const Row& row, size_t head, size_t first, size_t last, const State& total) const {
    const size_t step = AttentionPlan::piece_tokens(row.length), queries = row.count * group_;
    store(memory, row, head, larger(first * step, row.past), smaller(last * step, row.length));
    const bool dots = queries <= kFewQueries;
    if (dots)
      for (size_t query = 0; query < queries; ++query)
        rotate_query(memory, row, head, query, key_scale(head), memory + plan_.queries + query * plan_.stride);
    else
      place_panels(memory, row, head, 0, queries, key_scale(head));
    const State partial = State::at(memory + plan_.partial, AttentionPlan::padded(queries));
    for (size_t piece = first; piece < last; ++piece) {
      const State& state = piece == first ? total : partial;
      begin(state, queries, plan_.stride);
      const size_t start = piece * step, end = smaller(start + step, row.length);
      if (dots)
        gather_dots(memory, row, head, queries, start, end, state);
      else
        gather_panels(memory, row, 0, queries, stored(row, head, start, end, false), state);
      if (piece != first) merge(total, state, queries, plan_.stride);
    }
  }

  // Attend from some of the new tokens of a row that has more than a few of them, all of which are stored.
  void attend_tile(float* memory, const Row& row, size_t head, size_t tile) const {
    const size_t first = tile * tile_tokens_, last = smaller(first + tile_tokens_, row.count);
    const size_t queries = (last - first) * group_, end = row.past + last;
    place_panels(memory, row, head, first * group_, queries, nullptr);
    const State total = State::at(memory + plan_.total, AttentionPlan::padded(queries));
    begin(total, queries, plan_.stride);
    if (!shape_.int8) {
      gather_panels(memory, row, first * group_, queries, stored(row, head, 0, end, false), total);
    } else {
      gather_panels(memory, row, first * group_, queries, stored(row, head, 0, row.past, true), total);
      const size_t stride = call_.value_stride;
      const float* values = call_.value + row.start * stride + head * shape_.head_dim;
      gather_panels(memory, row, first * group_, queries,
                    Seen<float>{new_keys(row, head), nullptr, values, nullptr, stride, nullptr, row.past, end}, total);
    }
    write(row, head, first * group_, queries, total, nullptr);
  }

  // Rotate the new keys of positions `begin` to `end` and put them and the values into the cache.
  void store(float* memory, const Row& row, size_t head, size_t begin, size_t end) const {
    const size_t size = shape_.head_dim, half = size / 2;
    for (size_t position = begin; position < end; ++position) {
      const size_t token = position - row.past;
      const size_t from = row.start + token;
      const float* value = call_.value + from * call_.value_stride + head * size;
      const float* before = normed(memory, call_.key + from * call_.key_stride + head * size, call_.key_norm);
      const size_t to = ((row.number * shape_.kv_heads + head) * shape_.capacity + position) * size;
      const float *cos = call_.cos + position * half, *sin = call_.sin + position * half;
      if constexpr (sizeof(T) == sizeof(float)) {
        rotate(before, cos, sin, half, static_cast<float*>(call_.keys) + to);
        memcpy(static_cast<float*>(call_.values) + to, value, size * sizeof(float));
      } else {
        float* key = row.few() ? memory + plan_.rotated : new_keys(row, head) + token * size;
        rotate(before, cos, sin, half, key);
        round_to_codes(key, key_scale(head), size, static_cast<int8_t*>(call_.keys) + to);
        round_to_codes(value, value_scale(head), size, static_cast<int8_t*>(call_.values) + to);
      }
    }
  }

  // A head after its norm, in the worker's memory; without a norm where it lies.
  const float* normed(float* memory, const float* from, const float* norm) const {
    if (norm == nullptr) return from;
    float* to = memory + plan_.normed;
    normalize(from, norm, call_.epsilon, shape_.head_dim, to);
    return to;
  }

  // Query `query` of a row and head of keys: those of one token lie together.
  void rotate_query(float* memory, const Row& row, size_t head, size_t query, const float* scales, float* to) const {
    const size_t size = shape_.head_dim, half = size / 2, token = query / group_;
    const float* from = call_.query + (row.start + token) * call_.query_stride +
                        (head * group_ + query % group_) * size;
    const size_t angles = (row.past + token) * half;
    rotate(normed(memory, from, call_.query_norm), call_.cos + angles, call_.sin + angles, half, to);
    scale(to, factor_, scales, size);
  }

  // Rotate queries from `first` on, and put them transposed into panels.
  void place_panels(float* memory, const Row& row, size_t head, size_t first, size_t queries,
                    const float* scales) const {
    float *rotated = memory + plan_.rotated, *panel = memory + plan_.queries;
    for (size_t start = 0; start < queries; start += kPanel, panel += kPanel * plan_.stride) {
      const size_t width = panel_vectors(queries - start) * Vec::kLanes, count = smaller(queries - start, width);
      for (size_t i = 0; i < count; ++i)
        rotate_query(memory, row, head, first + start + i, scales, rotated + i * plan_.stride);
      memset(rotated + count * plan_.stride, 0, (width - count) * plan_.stride * sizeof(float));
      for (size_t d = 0; d < shape_.head_dim; d += Vec::kLanes)
        for (size_t i = 0; i < width; i += Vec::kLanes)
          Vec::transpose(rotated + i * plan_.stride + d, plan_.stride, panel + d * width + i, width);
    }
  }

  void gather_dots(float* memory, const Row& row, size_t head, size_t queries, size_t begin, size_t end,
                   const State& state) const {
    for (size_t start = begin; start < end; start += kSpan) {
      const size_t count = smaller(kSpan, end - start);
      size_t query = 0;
      for (; queries - query >= 4; query += 4) gather_some<4>(memory, row, head, query, start, count, state);
      for (; queries - query >= 2; query += 2) gather_some<2>(memory, row, head, query, start, count, state);
      for (; queries - query >= 1; query += 1) gather_some<1>(memory, row, head, query, start, count, state);
    }
  }

  template <size_t QUERIES>
  void gather_some(float* memory, const Row& row, size_t head, size_t query, size_t start, size_t count,
                   const State& state) const {
    size_t seen[QUERIES];
    for (size_t i = 0; i < QUERIES; ++i) seen[i] = seen_of(row, query + i, start, count);
    const size_t offset = cache_row(row, head) + start * shape_.head_dim;
    gather_span<QUERIES>(memory + plan_.queries + query * plan_.stride, plan_.stride,
                         static_cast<const T*>(call_.keys) + offset, static_cast<const T*>(call_.values) + offset,
                         shape_.head_dim, count, seen, state.from(query, plan_.stride), memory + plan_.scores);
  }

  template <typename U>
  void gather_panels(float* memory, const Row& row, size_t first, size_t queries, const Seen<U>& source,
                     const State& state) const {
    const size_t size = shape_.head_dim, stride = plan_.stride;
    float *keys = memory + plan_.keys, *slabs = memory + plan_.values, *scores = memory + plan_.scores;
    for (size_t start = source.begin; start < source.end; start += kBlock) {
      const size_t count = smaller(kBlock, source.end - start), from = start - source.begin;
      const float* block = keys;
      size_t block_stride = stride;
      if constexpr (sizeof(U) == sizeof(float)) {
        block = source.keys + from * size;
        block_stride = size;
      } else {
        widen_keys(source.keys + from * size, size, count, source.key_scale, keys, stride);
      }
      if (source.values == nullptr && source.end - start > kBlock) {
        const size_t next = (from + kBlock) * size, left = smaller(kBlock, source.end - start - kBlock) * size;
        ask_for(source.keys + next, left);
        ask_for(source.codes + next, left);
      }
      if (source.values != nullptr)
        widen_values(source.values + from * source.value_stride, source.value_stride, size, count, nullptr, slabs);
      else
        widen_values(source.codes + from * size, size, size, count, source.value_scale, slabs);
      for (size_t query = 0; query < queries; query += kPanel) {
        const float* panel = memory + plan_.queries + query * stride;
        const size_t vectors = panel_vectors(queries - query), number = smaller(queries - query, kPanel);
        float seen[kPanel];
        for (size_t i = 0; i < vectors * Vec::kLanes; ++i)
          seen[i] = static_cast<float>(seen_of(row, first + query + smaller(i, number - 1), start, count));
        const auto most = static_cast<size_t>(seen[number - 1]);
        const State part = state.from(query, stride);
        if (most == 0) continue;
        if (vectors == 1)
          gather_panel<1>(panel, size, block, block_stride, slabs, most, seen, number, part, stride, scores);
        else
          gather_panel<Vec::kWide>(panel, size, block, block_stride, slabs, most, seen, number, part, stride, scores);
      }
    }
  }

  // How many of `count` keys from `start` on a query sees.
  size_t seen_of(const Row& row, size_t query, size_t start, size_t count) const {
    const size_t end = row.past + query / group_ + 1;
    return end <= start ? 0 : smaller(end - start, count);
  }

  Seen<T> stored(const Row& row, size_t head, size_t begin, size_t end, bool scaled) const {
    const size_t offset = cache_row(row, head) + begin * shape_.head_dim;
    return {static_cast<const T*>(call_.keys) + offset,
            scaled ? key_scale(head) : nullptr,
            nullptr,
            static_cast<const T*>(call_.values) + offset,
            shape_.head_dim,
            scaled ? value_scale(head) : nullptr,
            begin,
            end};
  }

  // Write the averages of values of queries from `first` on.
  void write(const Row& row, size_t head, size_t first, size_t queries, const State& state,
             const float* scales) const {
    for (size_t i = 0; i < queries; ++i) {
      const size_t query = first + i, size = shape_.head_dim;
      float* to = context(row, head * group_ + query % group_, query / group_);
      const float* from = state.values + i * plan_.stride;
      const Floats factor = Vec::all(1.0f / state.sum[i]);
      for (size_t d = 0; d < size; d += Vec::kLanes) {
        Floats value = Vec::mul(load_up_to(from + d, size - d), factor);
        if (scales != nullptr) value = Vec::mul(value, load_up_to(scales + d, size - d));
        store_up_to(to + d, value, size - d);
      }
    }
  }

  size_t cache_row(const Row& row, size_t head) const {
    return (row.number * shape_.kv_heads + head) * shape_.capacity * shape_.head_dim;
  }
  float* context(const Row& row, size_t head, size_t token) const {
    return call_.context + ((row.start + token) * shape_.heads + head) * shape_.head_dim;
  }
  float* new_keys(const Row& row, size_t head) const {
    return scratch_ + plan_.new_keys + (row.start * shape_.kv_heads + head * row.count) * shape_.head_dim;
  }
  const float* key_scale(size_t head) const {
    return shape_.int8 ? call_.key_scale + head * shape_.head_dim : nullptr;
  }
  const float* value_scale(size_t head) const {
    return shape_.int8 ? call_.value_scale + head * shape_.head_dim : nullptr;
  }

  const AttentionCall& call_;
  const AttentionShape& shape_;
  const ParallelFor& parallel_;
  const AttentionPlan plan_;
  const size_t group_;
  float* const scratch_;
  size_t* const ends_;
  const float factor_;  // of queries, so that scores are exponents of 2
  size_t tile_tokens_;  // of an item of a row with more than a few
  bool cut_ = false;    // whether items are pieces of rows
};

static size_t scratch(const AttentionShape& shape, size_t threads) {
  return AttentionPlan(shape, threads).floats * sizeof(float);
}

static void attend(const AttentionCall& call, const ParallelFor& parallel) {
  if (call.shape.int8)
    AttentionPass<int8_t>(call, parallel).run();
  else
    AttentionPass<float>(call, parallel).run();
}

}  // namespace attention

constexpr AttentionKernels kAttention = {attention::scratch, attention::attend};
