"""How each kind of block is computed in float32, one file each, as pure functions over a layer's weights.

A block is described in `q3edge.architecture.blocks`. What all kinds have in common, the norm in front and the product
that is added to the hidden states, is `reference.layer`'s; a kind gives the steps in between, one fewer than it has
input groups: each makes the input of the next group from the input of one. So calibration can look at, and round for,
the input of every matrix.
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
