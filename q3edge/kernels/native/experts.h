// Experts of a layer: each row goes to a few of many small networks, and has the sum of their results by its shares.
#pragma once

#include "kernels.h"

namespace q3edge {

// Matrices of all experts, alike and one behind the other: an expert is silu(gate x) * (up x) times its down matrix.
struct Experts {
  Matrix gate_up;  // of the first one [2 I, H]: the rows of gate, then those of up
  Matrix down;     // of the first one [H, I]
  size_t count;    // E
  size_t chosen;   // of a row, at most `count`

  bool valid() const {
    return count > 0 && chosen > 0 && chosen <= count && count <= 1 << 16 && gate_up.shape.valid() &&
           down.shape.valid() && gate_up.shape.rows == 2 * down.shape.width && gate_up.shape.width == down.shape.rows;
  }
};

// Bytes of scratch that `compute_experts` needs for M rows.
size_t expert_scratch(const Experts& experts, size_t rows);
// Compute y, float32 [M, H], of x [M, H] and the router's logits [M, E]; scratch at a multiple of 64.
//
// A row goes to its `chosen` largest logits, of equal ones to the last; an expert's share is its probability over the
// sum of theirs. A row's results are summed in the order of experts, whatever is computed beside it. A row that has no
// shares, as a logit is NaN or the largest is infinite, becomes NaN.
void compute_experts(const Kernels& kernels, const Experts& experts, const float* x, const float* logits, size_t rows,
                     float* y, void* scratch, const ParallelFor& parallel);

}  // namespace q3edge
