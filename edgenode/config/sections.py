"""The sections of `run.toml`: the types, defaults and meanings of their keys.

The annotation of a key states which values are allowed and what the key means. `load` checks values against it, so the
constructors do not. This package imports neither torch nor numpy nor the network, so that the command line can refuse
a bad value at once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgenode import names
from edgenode.core.algorithm import definitions
from edgenode.core.algorithm.definitions import AlgorithmDefinition, CompressorDefinition
from edgenode.core.topology.period import Period
from edgenode.entry_points import Group
from edgenode.errors import one_of

ALGORITHMS = Group("edgenode.algorithms", AlgorithmDefinition, definitions.ALGORITHMS)
COMPRESSORS = Group("edgenode.compressors", CompressorDefinition, definitions.COMPRESSORS)


def _name_in(group: Group[Any]) -> Meta:
    return Meta(title=f"{one_of(group.own)}, or the name of an extension")


AtLeast0 = Annotated[int, Meta(ge=0, title="a whole number, 0 or more")]
AtLeast1 = Annotated[int, Meta(ge=1, title="a whole number, 1 or more")]
UpTo16384 = Annotated[int, Meta(ge=1, le=16384, title="a whole number from 1 to 16384")]
UpTo1024 = Annotated[int, Meta(ge=1, le=1024, title="a whole number from 1 to 1024")]
Unsigned32 = Annotated[int, Meta(ge=0, le=2**32 - 1, title="a whole number from 0 to 4294967295")]
Positive = Annotated[float, Meta(gt=0, title="a number above 0")]
NotNegative = Annotated[float, Meta(ge=0, title="a number, 0 or more")]
Fraction = Annotated[float, Meta(ge=0, le=1, title="a number from 0 to 1")]
FractionBelow1 = Annotated[float, Meta(ge=0, lt=1, title="a number from 0 to below 1")]
Probability = Annotated[float, Meta(gt=0, lt=1, title="a number above 0 and below 1")]
FractionAbove0 = Annotated[float, Meta(gt=0, le=1, title="a number above 0 and at most 1")]
PositiveOrUnset = Annotated[Positive | None, Meta(title="a number above 0, or unset")]
AtLeast1OrUnset = Annotated[AtLeast1 | None, Meta(title="a whole number, 1 or more, or unset")]
AtLeast1OrAuto = Annotated[AtLeast1 | Literal["auto"], Meta(title='a whole number, 1 or more, or "auto"')]
RoundsOrAuto = Annotated[AtLeast0 | Literal["auto"], Meta(title='a whole number, 0 or more, or "auto"')]
Text = Annotated[str, Meta(title="text")]
Name = Annotated[str, Meta(min_length=1, title="text that is not empty")]
ClusterName = Annotated[str, Meta(pattern=names.PATTERN, title=names.RULE)]
Epochs = Annotated[tuple[AtLeast1, ...], Meta(title="a list of increasing whole numbers, 1 or more")]
Names = Annotated[tuple[Name, ...], Meta(min_length=1, title="a list of one or more names or paths")]
Classes = Annotated[tuple[Name, ...], Meta(title="a list of names")]
Patterns = Annotated[tuple[Name, ...], Meta(title="a list of names or patterns")]
Entry = Annotated[
    str,
    Meta(pattern=r"^(|[A-Za-z_][\w.]*:[A-Za-z_]\w*)\Z", title='module and class, as in "birds:Birds", or empty'),
]
OptionTable = Annotated[
    dict[str, bool | int | float | str | list[bool | int | float | str]],
    Meta(title="a table of numbers, text, booleans, and lists of them"),
]
ValueFormat = Literal["int8", "int4", "coded3", "fitted4", "fitted2", "fitted1", "bfloat16", "float32"]
PeriodText = Annotated[str, Meta(title='epochs, as in "6ep", or rounds, as in "100r" or 100')]


class RunSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The nodes of a run, its length, and its timeouts."""

    cluster: Annotated[ClusterName, "name of the run (a node with another name is rejected)"] = "edgenode"
    recipe: Annotated[
        Literal["paper", "recommended"],
        "values of keys that are not given: the paper's, or those that give high accuracy for few bytes",
    ] = "paper"
    nodes: Annotated[UpTo16384, "number of nodes that the run starts with (devices: at most 1024)"] = 4
    rounds: Annotated[AtLeast1, "number of training rounds"] = 1000
    seed: Annotated[Unsigned32, "seed of all random numbers"] = 0
    checkpoint_every: Annotated[AtLeast1, "rounds between two checkpoints"] = 50
    publish_every: Annotated[
        AtLeast0, "rounds between two updates of model.safetensors, which others can use (0: only at the end)"
    ] = 0
    evaluate_every: Annotated[AtLeast0, "rounds between two evaluations (0: only at the end)"] = 50
    barrier_timeout_s: Annotated[
        Positive,
        "seconds a round waits before the node logs the missing in-neighbours, or stops if there is no controller",
    ] = 120.0
    log_every_s: Annotated[NotNegative, "seconds, at least, between two lines of a node's log about ended epochs"] = (
        10.0
    )
    evict_after_s: Annotated[Positive, "seconds without progress after which an unresponsive member is evicted"] = 30.0
    straggler: Annotated[
        Literal["wait", "drop"], "policy for a responsive member that delays the others for evict_after_s"
    ] = "wait"
    on_poison: Annotated[
        Literal["report", "pause", "evict"],
        "what follows when a member's message raises the poison alarm, beyond a warning: nothing, a pause, or its "
        "eviction",
    ] = "report"
    min_nodes: Annotated[UpTo1024, "number of members below which none is evicted and none may leave"] = 1
    window: Annotated[UpTo1024, "rounds a node may be ahead of its oldest unacknowledged push"] = 8
    overlap: Annotated[
        AtLeast0, "rounds by which mixing lags behind, so that messages travel while nodes train (docs/algorithms.md)"
    ] = 0
    threads: Annotated[AtLeast1OrAuto, "torch threads of a node (auto: one per physical core)"] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], "device that a node trains on (auto: cuda if available, else cpu)"
    ] = "auto"


class TaskSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data, the model and the optimiser. Whether a data set or model exists is checked when a run starts."""

    entry: Annotated[Entry, "a task of your own, instead of dataset and model (docs/your-own-task.md)"] = ""
    options: Annotated[OptionTable, "arguments of the class that entry names"] = {}
    dataset: Annotated[Name, "name of the data set: digits, imagefolder, or one of a package"] = "digits"
    data_dir: Annotated[Text, "folder of the data, where {node} is this node's name (empty: the default folder)"] = ""
    data: Annotated[
        Literal["auto", "own", "cut"],
        "own: a node trains on all of its data; cut: all nodes have the same data, and each trains on a shard of it "
        "(auto: own for imagefolder and entry, cut for other data sets)",
    ] = "auto"
    objective: Annotated[
        Literal["equal", "samples"], "weight of a node in what is trained: equal, or by its number of samples"
    ] = "equal"
    classes: Annotated[Classes, "classes of an imagefolder, of which a node may lack some (empty: its folders)"] = ()
    image_size: Annotated[
        AtLeast1OrUnset, "pixels to which the images of an imagefolder are scaled and cropped (unset: as they are)"
    ] = None
    model: Annotated[Name, "name of the model: small-cnn, resnet20, one of torchvision, or one of a package"] = (
        "small-cnn"
    )
    norm: Annotated[Literal["batch", "group"], "normalisation layers of the model"] = "group"
    shared: Annotated[Patterns, "parts of the model that all nodes share, the rest stays local (empty: all)"] = ()
    skew: Annotated[Fraction, "share of the data that is cut by label, the rest evenly"] = 0.0
    alpha: Annotated[
        PositiveOrUnset, "if set, the data is cut by a Dirichlet distribution with this alpha, not by skew"
    ] = None
    validation: Annotated[
        FractionBelow1, "share of the training data on which models are evaluated, in place of the test data"
    ] = 0.0
    batch_size: Annotated[AtLeast1, "samples in one batch of one node"] = 32
    local_steps: Annotated[
        AtLeast1OrAuto, "optimiser steps of a node in one round (auto: as many as fit the time of the slowest node)"
    ] = 1
    accumulate: Annotated[AtLeast1, "batches whose gradients are averaged for one step"] = 1
    optimizer: Annotated[
        Literal["sgd", "adam", "adamw", "nadam", "radam", "adamax", "adagrad", "adadelta", "rmsprop", "muon"],
        "the optimiser, as torch.optim defines it (muon: for the weights of hidden layers, and adamw for the rest)",
    ] = "sgd"
    learning_rate: Annotated[Positive, "learning rate of the optimiser, before its schedule"] = 0.1
    momentum: Annotated[FractionBelow1, "momentum of sgd and rmsprop (others have torch's defaults)"] = 0.9
    weight_decay: Annotated[NotNegative, "weight decay of the optimiser"] = 1e-4
    clip_norm: Annotated[PositiveOrUnset, "if set, the length to which a longer gradient is clipped"] = None
    schedule: Annotated[
        Literal["steps", "cosine", "trapezoid"],
        "the learning rate over the run: steps at milestones, half a cosine down to 0, or level, and linearly to 0 "
        "in the second half",
    ] = "steps"
    milestones: Annotated[Epochs, "epochs at which the learning rate is multiplied by decay"] = ()
    decay: Annotated[FractionAbove0, "factor of the learning rate at each milestone"] = 0.1
    warmup_epochs: Annotated[AtLeast0, "epochs in which the learning rate rises linearly to learning_rate"] = 0
    augment: Annotated[bool, "whether training images are varied at random"] = False
    loss: Annotated[
        Literal["cross_entropy", "balanced"],
        "training loss: cross-entropy, or balanced for the classes of the node's own data (docs/algorithms.md)",
    ] = "cross_entropy"
    buffers: Annotated[
        Literal["local", "average"],
        "BatchNorm statistics at the end: measured by each node for the final model, or averaged by scsp's last phase",
    ] = "local"
    precision: Annotated[
        Literal["float32", "bfloat16"], "number format in which layers compute (parameters and gradients are float32)"
    ] = "float32"
    memory_format: Annotated[
        Literal["contiguous", "channels_last"], "order of images in memory, which changes the time of a step"
    ] = "contiguous"

    @property
    def samples_per_round(self) -> int:
        """The number of samples that a node uses in one round. With "auto", epochs count one step a round."""
        return self.batch_size * self.accumulate * (1 if self.local_steps == "auto" else self.local_steps)

    @property
    def has_own_data(self) -> bool:
        """Return whether a node trains on all of its data."""
        if self.data != "auto":
            return self.data == "own"
        return bool(self.entry) or self.dataset == "imagefolder"


class PrivacySection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Differential privacy for each training sample of a node (docs/privacy.md). It is on if epsilon or noise is set.

    The combinations that have no guarantee are refused by `load`.
    """

    epsilon: Annotated[PositiveOrUnset, "privacy budget of a node, after which it trains no more (unset: no limit)"] = (
        None
    )
    delta: Annotated[Probability, "chance with which the guarantee of epsilon may fail"] = 1e-5
    noise: Annotated[
        PositiveOrUnset,
        "noise, as a multiple of clip_norm (unset: as much as the planned steps of a node need for epsilon)",
    ] = None
    clip_norm: Annotated[Positive, "length to which a longer gradient of a sample is clipped"] = 1.0
    reproducible: Annotated[
        bool, "draw the noise from run.seed, which all nodes know: without a guarantee, for tests alone"
    ] = False

    @property
    def on(self) -> bool:
        """Return whether training is differentially private."""
        return self.epsilon is not None or self.noise is not None


class AlgorithmSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The averaging of models, and the content of a push. `load` checks that the keys fit each other."""

    name: Annotated[str, _name_in(ALGORITHMS), "the algorithm (docs/algorithms.md describes each)"] = "scsp"
    compressor: Annotated[
        str,
        _name_in(COMPRESSORS),
        "what a push carries: the largest entries, all, all rounded at random, or one block of the model after another",
    ] = "topk"
    share: Annotated[
        FractionAbove0,
        "share of each tensor that topk keeps, or of the model that is one block of rolling",
    ] = 0.01
    bits: Annotated[Literal[4, 2, 1], "bits per value of the random compressor"] = 4
    values: Annotated[
        ValueFormat,
        "number format in which all compressors but random send values (its default depends on the algorithm, the "
        "compressor and the share: docs/algorithms.md)",
    ] = "fitted1"
    averaging_rate: Annotated[PositiveOrUnset, "the paper's η (unset: the algorithm's default)"] = None
    averaging_warmup: Annotated[AtLeast0, "rounds in which η rises linearly to averaging_rate"] = 0
    averaging_decay: Annotated[
        NotNegative, "exponent a: s rounds after the warm-up, η is averaging_rate / (1 + s)^a"
    ] = 0.0
    liars: Annotated[
        AtLeast0,
        "number of in-neighbours whose lies mixing limits, if a node has twice as many and one more (0: it mixes every "
        "message as it is)",
    ] = 0
    gossip_rounds: Annotated[RoundsOrAuto, "rounds of SCSP's last phase (auto: as many as gossip_tolerance needs)"] = (
        "auto"
    )
    gossip_tolerance: Annotated[Positive, "share of the disagreement that may remain after the last phase"] = 1e-3
    gossip_graph: Annotated[
        Literal["auto", "plan", "exponential", "one-peer-exponential", "halving", "allreduce", "complete"],
        "graph of the last phase (auto: allreduce if all graphs are presets, halving if gossip_rounds is also set, or "
        "else plan, and plan if liars is set; plan: the run's own graphs)",
    ] = "auto"
    gossip_values: Annotated[ValueFormat, "number format of the last phase"] = "float32"
    options: Annotated[OptionTable, "keys of its own that an algorithm of an extension has"] = {}

    @property
    def kept_share(self) -> float:
        """p, the share of what is exchanged that a message keeps. The averaging rate must match it."""
        return COMPRESSORS[self.compressor].kept(self) if self.definition.communicates else 0.0

    @property
    def blocks(self) -> int:
        """The number of blocks of the model, which are exchanged in turn."""
        blocks = COMPRESSORS[self.compressor].blocks
        return 1 if blocks is None else blocks(self)

    @property
    def definition(self) -> AlgorithmDefinition:
        """The definition of `name`."""
        return ALGORITHMS[self.name]


class TopologySection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The graphs of the run, and when they change. The start of a run checks that they exist."""

    graphs: Annotated[Names, "presets or edge-list files, used in turn"] = ("a",)
    every: Annotated[PeriodText, "how long each graph is used before the next"] = "1ep"
    weights: Annotated[
        Literal["out-degree", "metropolis", "uniform"],
        "weights of edges: by the sender's out-degree, or symmetric ones of undirected graphs (docs/algorithms.md)",
    ] = "out-degree"

    @property
    def period(self) -> Period:
        """`every` as a value."""
        return Period.parse(self.every)


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "run": RunSection,
    "task": TaskSection,
    "privacy": PrivacySection,
    "algorithm": AlgorithmSection,
    "topology": TopologySection,
}
