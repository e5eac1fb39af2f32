"""A spinal net as a scikit-learn estimator: in a pipeline, a search, and beside boosted trees.

python table.py
"""

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split

from spinalnet import SpinalClassifier

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)

# Numbers are scaled and embedded by the estimator itself; of a frame of pandas or polars, gaps and
# categories too. Eight nets are trained at once and averaged; rows are held out to stop in time.
model = SpinalClassifier(random_state=0)
trees = HistGradientBoostingClassifier(random_state=0)
for name, estimator in (("spinal", model), ("trees", trees)):
    scores = cross_val_score(estimator, X_train, y_train, cv=3)
    print(f"{name}: {scores.mean():.3f} in three folds")

search = GridSearchCV(model, {"num_layers": [2, 4], "ensemble_size": [4]}, cv=3)
search.fit(X_train, y_train)
print("chosen:", search.best_params_)

probabilities = search.predict_proba(X_test)
sure = probabilities.max(axis=1) > 0.9
right = search.predict(X_test) == y_test
print(
    f"test: {right.mean():.3f} right; of the {sure.sum()} it is sure of, {right[sure].mean():.3f}"
)
