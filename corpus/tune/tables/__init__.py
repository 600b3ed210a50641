"""Rows that were once the part to report on; their mistakes have been read since.

A case is a row: an architecture, a task, an optimizer and, in a faulty case, one change. The rows
are all that differs; `corpus.trainings` holds what they are made of.
"""

from corpus.trainings.rows import Rows

ROWS = Rows(
    "tune",
    (
        "digits_logistic",
        "digits_fused_adamw",
        "digits_fused_adamw/bfloat16_small_steps",
        "digits_bfloat16_weights",
        "breast_elu_adagrad",
        "digits_plateau/dead_bias",
        "digits_prelu_nesterov/rate_low",
        "digits_centred_gradients/batch_x2000",
        "diabetes_leaky_adadelta/nan_feature",
    ),
)
sound, broken = ROWS.sound, ROWS.broken
