"""What helps: one remedy a file, and the registry that knows them all by name."""

from __future__ import annotations

from typing import Any

from surefoot.findings import Remedy
from surefoot.remedies.activation.functions import GELU, SELU, LeakyReLU, ReLU
from surefoot.remedies.clipping.adaptive import AGC, AdaGC, Auto, AutoClip, ZClip
from surefoot.remedies.clipping.norm import Norm
from surefoot.remedies.clipping.parameter_norm import ParameterNorm
from surefoot.remedies.clipping.skip import Skip
from surefoot.remedies.clipping.value import Value
from surefoot.remedies.data.clean import Clean
from surefoot.remedies.data.one_batch import OneBatch
from surefoot.remedies.graph.connect import Connect
from surefoot.remedies.initialization.default import Default
from surefoot.remedies.initialization.delta_orthogonal import DeltaOrthogonal
from surefoot.remedies.initialization.depth_scaled import DepthScaled
from surefoot.remedies.initialization.fixup import Fixup
from surefoot.remedies.initialization.kaiming import KaimingNormal
from surefoot.remedies.initialization.looks_linear import LooksLinear
from surefoot.remedies.initialization.lsuv import LSUV
from surefoot.remedies.initialization.normal import Normal
from surefoot.remedies.initialization.orthogonal import Orthogonal
from surefoot.remedies.initialization.rescale import Rescale
from surefoot.remedies.initialization.two_way import TwoWay
from surefoot.remedies.initialization.xavier import XavierNormal
from surefoot.remedies.learning_rate.find import Find
from surefoot.remedies.learning_rate.scale import Scale
from surefoot.remedies.learning_rate.warmup import Warmup
from surefoot.remedies.normalization.batch_norm import BatchNorm
from surefoot.remedies.normalization.layer_norm import LayerNorm
from surefoot.remedies.operation.undefined import Mask
from surefoot.remedies.optimizer.beta2 import Beta2
from surefoot.remedies.optimizer.eps import Eps
from surefoot.remedies.optimizer.rebuild import Rebuild
from surefoot.remedies.optimizer.reset import Reset
from surefoot.remedies.optimizer.settings import Settings
from surefoot.remedies.optimizer.weight_decay import WeightDecay
from surefoot.remedies.optimizer.zero import Zero
from surefoot.remedies.output.linear import LinearOutput
from surefoot.remedies.output.log_softmax import LogSoftmax
from surefoot.remedies.output.logits import Logits
from surefoot.remedies.precision.bfloat16 import BFloat16
from surefoot.remedies.precision.float32 import Float32
from surefoot.remedies.precision.grad_scaler import GradScaler
from surefoot.remedies.precision.master_weights import MasterWeights
from surefoot.remedies.residual.kinds import Identity, PreNorm, ReZero, SkipInit
from surefoot.remedies.scaling.input import Input
from surefoot.remedies.scaling.loss import Mean
from surefoot.remedies.scaling.target import Target
from surefoot.remedies.subject import FirstCall as FirstCall
from surefoot.remedies.subject import NotApplicable as NotApplicable
from surefoot.remedies.subject import Subject as Subject
from surefoot.remedies.treatment import Treatment as Treatment

TREATMENTS: dict[str, type[Treatment]] = {
    kind.name: kind
    for kind in (
        KaimingNormal,
        Rescale,
        Default,
        XavierNormal,
        Normal,
        Orthogonal,
        DeltaOrthogonal,
        LSUV,
        TwoWay,
        LooksLinear,
        DepthScaled,
        Fixup,
        Scale,
        Find,
        Warmup,
        Norm,
        Value,
        ParameterNorm,
        AGC,
        AutoClip,
        ZClip,
        AdaGC,
        Auto,
        Skip,
        Rebuild,
        Reset,
        Eps,
        Beta2,
        WeightDecay,
        Settings,
        Zero,
        Input,
        Target,
        Mean,
        Clean,
        OneBatch,
        Float32,
        BFloat16,
        GradScaler,
        MasterWeights,
        ReLU,
        GELU,
        SELU,
        LeakyReLU,
        ReZero,
        SkipInit,
        Identity,
        PreNorm,
        LayerNorm,
        BatchNorm,
        Logits,
        LogSoftmax,
        LinearOutput,
        Mask,
        Connect,
    )
}


def treatment(remedy: Remedy) -> Treatment:
    """The definition of a prescribed remedy, aimed as prescribed.

    Raises ValueError for a name that is not in the book.
    """
    kind = TREATMENTS.get(remedy.remedy)
    if kind is None:
        known = ", ".join(sorted(TREATMENTS))
        raise ValueError(f"expected the name of a remedy, got {remedy.remedy!r}; known are {known}")
    return kind(remedy.target, **remedy.parameters)


def prescribed(name: str, target: str | None = None, why: str = "", **parameters: Any) -> Remedy:
    """A remedy of the book as data: its own code, and its own reason unless another is given.

    >>> prescribed("learning_rate.scale", factor=0.3).parameters
    {'factor': 0.3}
    """
    return TREATMENTS[name](target, **parameters).remedy(why)
