"""Any traditional hidden layer as a spinal one: the same function, to rounding.

python conversion.py
"""

import torch
from torch import nn

from spinalnet import to_spinal

torch.manual_seed(0)
dense = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3)).double()

# The chain must carry sums past its activations: it needs to know how large an input may be.
spinal = to_spinal(dense, num_splits=3, bounds=(-2, 2), hidden_features=6)
print(spinal)

x = torch.rand(10_000, 12, dtype=torch.float64) * 4 - 2
difference = (spinal(x) - dense(x)).abs().max().item()
print(f"largest difference on 10,000 inputs: {difference:.1e}")

# Outside the box of inputs that it was made for, nothing is promised.
far = 50 * x
print(f"far outside: {(spinal(far) - dense(far)).abs().max().item():.1e}")
