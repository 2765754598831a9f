"""Computation of each kind of block in float32, one file each, as pure functions over a layer's weights.

Blocks are described in `q3edge.architecture.blocks`. The parts common to all kinds, the norm before the block and the
product that is added to the hidden states, are in `q3edge.reference.layer`; a kind gives the steps between, one fewer
than it has input groups: each computes the input of the next group from that of the one before. So calibration can
observe the input of every matrix. Blocks with a router are computed by `q3edge.reference.blocks.experts`.
"""

from __future__ import annotations

from q3edge.architecture.blocks import attention as attention_description
from q3edge.architecture.blocks import mlp as mlp_description
from q3edge.reference.blocks.attention import attention_context
from q3edge.reference.blocks.mlp import gated_product
from q3edge.reference.weights import Step

STEPS: dict[str, tuple[Step, ...]] = {
    attention_description.KIND: (attention_context,),
    mlp_description.KIND: (gated_product,),
}
