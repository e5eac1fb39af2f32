"""Metrics as means of what each example contributes (placeholder, replaced by branch metrics)."""

METRICS: dict[str, object] = dict.fromkeys(
    ("accuracy", "balanced-accuracy", "auroc", "macro-f1", "log-loss", "mse", "mae", "r2")
)
