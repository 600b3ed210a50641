"""The book of rules, in the order of elimination: what stands earlier explains what follows.

To add a rule, write its file and put it in its place in RULES; its page, its `--ignore` and the
shared tests (a case in which it must fire, one in which it must be silent) follow from there.
"""

from __future__ import annotations

from surefoot.diagnosis.rule import Rule
from surefoot.diagnosis.rules import (
    bad_batch,
    collapsed,
    dead,
    disconnected,
    exploding,
    first_update,
    initial_scale,
    input_scale,
    learning_rate_high,
    learning_rate_low,
    left_out,
    loss_scale,
    nonfinite,
    not_zeroed,
    optimizer_settings,
    optimizer_state,
    output_mismatch,
    recurrent,
    refused,
    rolled_back,
    rounding,
    saturated,
    shattered,
    stalled,
    underflow,
    vanishing,
)

RULES: dict[str, Rule] = {
    module.RULE.id: module.RULE
    for module in (
        bad_batch,
        not_zeroed,
        disconnected,
        output_mismatch,
        input_scale,
        optimizer_settings,
        recurrent,
        initial_scale,
        underflow,
        vanishing,
        exploding,
        collapsed,
        shattered,
        loss_scale,
        rolled_back,
        learning_rate_high,
        first_update,
        dead,
        saturated,
        optimizer_state,
        rounding,
        learning_rate_low,
        left_out,
        stalled,
        refused,
        nonfinite,
    )
}
