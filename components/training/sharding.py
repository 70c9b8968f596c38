"""Decoder layers spread over the workers (FSDP2), for base models that do not fit on one.

Each worker keeps a part of every frozen layer; a layer is gathered when it is read, forwards or
backwards, and let go of afterwards. What is trained stays whole on every worker, and its gradients
travel as they always do (`average_gradients`), so that the weights, the checkpoints and the losses
are the same as without sharding.

To gather a layer takes all workers. They must therefore read the model equally often and in the
same order: equally many chunks, each with a conversation about a picture, if need be a placeholder
that teaches nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from components.methods.method import Method
from components.schema import IMAGE_PLACEHOLDER
from components.training.collate import TrainSample
from components.training.distributed import world_size
from components.training.sampler import StepSamples

PLACEHOLDER = 2**31 - 1  # index of the sample that fills a place; no table has as many rows
PLACEHOLDER_SAMPLE = TrainSample(
    sample_id="placeholder",
    image=Image.new("RGB", (32, 32)),
    conversation=[
        {"role": "user", "content": IMAGE_PLACEHOLDER},
        {"role": "assistant", "content": "."},
    ],
    caption=None,
    is_learned=False,
)


def shard_decoder(model: Method) -> None:
    """Spread the frozen weights of the decoder layers over the workers, in place."""
    language_model = model.backbone.language_model
    mesh = init_device_mesh(model.backbone.device.type, (world_size(),))
    trained = {parameter for parameter in language_model.parameters() if parameter.requires_grad}
    for layer in language_model.layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained & set(layer.parameters()))

    # the model around them spreads nothing more; it has the next layer gathered in time
    others = set(language_model.embed_tokens.parameters()) | set(language_model.norm.parameters())
    fully_shard(language_model, mesh=mesh, ignored_params=others | trained)


@contextmanager
def whole_decoder(model: Method) -> Iterator[None]:
    """Keep all layers whole during the block, in which workers read the model independently."""
    language_model = model.backbone.language_model
    layers = [layer for layer in language_model.layers if isinstance(layer, FSDPModule)]
    for layer in layers:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True)
            layer.reshard()
        if isinstance(language_model, FSDPModule):
            # else the next step would gather ahead by what this worker has read here
            language_model.reset_iter_state()


def with_placeholder(
    samples: dict[int, TrainSample], groups: StepSamples
) -> tuple[dict[int, TrainSample], StepSamples]:
    """Add a placeholder to a chunk without a conversation about a picture.

    Text alone would not do: no gradient would leave its generation pass, and FSDP2 would let go of
    the first layer later than on other workers. It then gathers what it should not, and says
    nothing.
    """
    if any(samples[index].image is not None for index in groups.autoregressive):
        return samples, groups
    filled = groups._replace(autoregressive=(*groups.autoregressive, PLACEHOLDER))
    return {**samples, PLACEHOLDER: PLACEHOLDER_SAMPLE}, filled
