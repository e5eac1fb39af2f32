"""Data of your own: a tensor, or any DataLoader.

python own_data.py
"""

import torch
from torch.utils.data import DataLoader, TensorDataset

from spinalnet import ArrayDataset, SpinalNet, TrainConfig, evaluate, fit

# Four classes by the signs of two products across the halves of the input: here the chain counts,
# for without it the logits are a sum of functions of one half each.
generator = torch.Generator().manual_seed(0)
x = torch.randn(6000, 20, generator=generator)
y = (x[:, 0] * x[:, 10] > 0).long() + 2 * (x[:, 1] * x[:, 11] > 0).long()
parts = [slice(0, 4000), slice(4000, 5000), slice(5000, 6000)]

model = SpinalNet(20, 4, hidden_features=16, num_layers=6)
train, val, test = (ArrayDataset(x[part], y[part]) for part in parts)
fit(model, train, val, TrainConfig(epochs=30))
print(f"arrays: test accuracy {evaluate(model, test).accuracy:.3f}")

# Whatever yields pairs of inputs and targets will do. It is asked for again in every epoch.
model = SpinalNet(20, 4, hidden_features=16, num_layers=6)
loaders = [
    DataLoader(TensorDataset(x[part], y[part]), batch_size=64, shuffle=part.start == 0)
    for part in parts
]
fit(model, loaders[0], loaders[1], TrainConfig(epochs=30))
print(f"loaders: test accuracy {evaluate(model, loaders[2]).accuracy:.3f}")
