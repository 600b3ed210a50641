"""What the lab can run: one line an entry, each a module of this folder that runs itself.

The list is made without PyTorch; an entry's own module is imported when it is run.
"""

from __future__ import annotations

from dataclasses import dataclass

PATHOLOGY, PUBLISHED = "pathology", "published"
FAMILIES = {
    PATHOLOGY: "Pathologies: failure, diagnosis, cure and proof",
    PUBLISHED: "Published results: a paper's number, measured here",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry by name: what it is called in the list, and its family."""

    name: str
    family: str
    title: str


_LIST = (  # in the order in which to read them
    Listed("sigmoid_vanishing", PATHOLOGY, "Ten sigmoid layers: the gradient vanishes"),
    Listed("exploding_weights", PATHOLOGY, "Weights or sigmoid: what makes gradients explode"),
    Listed("relu_effect", PATHOLOGY, "What ReLU does about vanishing, and about explosion"),
    Listed("clipping_tether", PATHOLOGY, "Clipping: a tether and not a cure"),
    Listed("initial_weights_loss", PATHOLOGY, "Initial weights, loss, gradient: what causes what"),
    Listed("shattered", PATHOLOGY, "Gradients like white noise: batch norm without skips"),
    Listed("collapsed", PATHOLOGY, "Fifty plain ReLU layers: all inputs end up alike"),
    Listed("skips_by_depth", PATHOLOGY, "Plain, batch norm, skips: what trains at 8 to 100 layers"),
    Listed("recurrent_explosion", PATHOLOGY, "Temporal order, with and without clipping"),
    Listed("recurrent_weights", PATHOLOGY, "Recurrent weights: explosion and forgetting over time"),
    Listed("learning_rate_high", PATHOLOGY, "A learning rate too high"),
    Listed("bad_batch", PATHOLOGY, "One bad batch among good ones"),
    Listed("half_overflow", PATHOLOGY, "Half precision: a value too large for its format"),
    Listed("saturated_block", PATHOLOGY, "One saturated layer among sound ones"),
    Listed("residual_digits", PATHOLOGY, "Residual networks on images: digits"),
    Listed("residual_sequences", PATHOLOGY, "Residual networks on sequences"),
    Listed("residual_cartpole", PATHOLOGY, "Residual networks that play: CartPole"),
    Listed("activation_gain", PUBLISHED, "chi_1 and the edge of chaos of an activation"),
    Listed("batch_norm_growth", PUBLISHED, "Batch norm with ReLU: pi / (pi - 1) a layer"),
    Listed("gradient_correlation", PUBLISHED, "Balduzzi's 1 / 2^L, (3/4)^L and 1 / sqrt(L)"),
    Listed("white_noise", PUBLISHED, "Brown and white noise along one input; looks-linear weights"),
    Listed("finite_width", PUBLISHED, "Chance of a finite width: ln of the gain varies by 5 L / n"),
    Listed("vgg_attenuation", PUBLISHED, "He's 1.7e4: weights of 0.01 in VGG"),
    Listed("xavier_stalls", PUBLISHED, "Thirty ReLU layers: Xavier's weights stall, He's learn"),
    Listed("recurrent_bound", PUBLISHED, "Jacobians over time and the bound on them"),
    Listed(
        "clipping_cliff", PUBLISHED, "The cliff of Pascanu's figure 6, with and without clipping"
    ),
    Listed("layer_norm_place", PUBLISHED, "Layer norm before or behind: Xiong's 1 / sqrt(L)"),
    Listed("edge_of_stability", PUBLISHED, "Curvature rises to 2 / rate and stays there"),
)
ENTRIES = {listed.name: listed for listed in _LIST}
