"""A regression with a spinal net, and how far its eight members agree.

python regression.py
"""

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split

from spinalnet import SpinalRegressor, sensitivities

X, y = load_diabetes(return_X_y=True, scaled=False)
NAMES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

model = SpinalRegressor(random_state=0).fit(X_train, y_train)
line = Ridge().fit(X_train, y_train)
print(f"R2: spinal {model.score(X_test, y_test):.3f}, ridge {line.score(X_test, y_test):.3f}")

mean, std = model.predict(X_test, return_std=True)
error = np.abs(mean - y_test)
order = np.argsort(std)
half = len(order) // 2
print(f"mean error where the nets agree most: {error[order[:half]].mean():.1f}")
print(f"mean error where they agree least:    {error[order[half:]].mean():.1f}")

# What the first of the eight nets depends on: how far its answer moves with each of its inputs.
found = sensitivities(model.module_, model.prepare(X_test), inputs=NAMES)
for column, size in zip(found.inputs, found.mean_absolute[0], strict=True):
    print(f"  {column}: {size:.2f}")
