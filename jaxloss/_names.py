"""Names by which others know what is here: for errors that say the name, and for whoever comes from another library."""

from __future__ import annotations

# Keywords of other libraries, and what stands for them here.
KEYWORDS = {
    "sample_weight": "weights",
    "sample_weights": "weights",
    "weight": "weights",
    "example_weights": "weights",
    "mask": "where",
    "masks": "where",
    "ignore_index": "where=y_true != ignore_index",
    "ignore_class": "where=y_true != ignore_class",
    "ignore_label": "where=y_true != ignore_label",
    "size_average": "reduction",
    "reduce": "reduction",
}
