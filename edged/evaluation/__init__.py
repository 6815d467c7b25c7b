"""What eight bits cost a model: its float answers beside those of the device, example by example.

`load_examples` finds photographs or arrays, an `Evaluator` compiles a bundle as edged does when it
is dropped and runs both models on them, and a `Result` says how they compare.
"""

from edged.evaluation._answers import (
    Boxes,
    BoxPair,
    Classes,
    Comparison,
    Mask,
    Values,
    compare_values,
)
from edged.evaluation._evaluate import Evaluator
from edged.evaluation._examples import LABELS_ARRAY, Example, Examples, load_examples
from edged.evaluation._result import Accuracy, Result

__all__ = [
    "LABELS_ARRAY",
    "Accuracy",
    "BoxPair",
    "Boxes",
    "Classes",
    "Comparison",
    "Evaluator",
    "Example",
    "Examples",
    "Mask",
    "Result",
    "Values",
    "compare_values",
    "load_examples",
]
