"""The identity of a trained compressor: what a store says of the model that wrote it, and who may read the store."""

from importlib.metadata import version
from pathlib import Path

from components.methods.checkpoint import (
    ADAPTER_FILE,
    CONFIG_FILE,
    CompressorConfig,
    check_trained_files,
    expect_settings,
    load_config,
)
from components.methods.method_settings import SINGLE_FORWARD, WITH_QUERIES
from components.model.backbone import weights_sha256
from components.model.loading import check_base_model
from components.model.settings_identity import settings_sha256
from components.store.codecs import Codec
from components.store.provenance import (
    SCHEMA_VERSION,
    SETTINGS,
    Provenance,
    StoreError,
    differences,
)

LIBRARIES = ("numpy", "peft", "pillow", "pyarrow", "torch", "transformers")
BASE = "base"  # whose settings
ATTENTION = "sdpa"  # what `load_compressor` loads


def read_config(compressor: Path) -> CompressorConfig:
    """The settings of a trained compressor. Raises ValueError when the folder holds none."""
    try:
        return load_config(compressor)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{compressor}: holds no trained compressor (no {CONFIG_FILE}); train one with `dvc repro train`, or fetch "
            "one with `dvc pull`"
        ) from None


def provenance_of(
    compressor: Path, codec: Codec, dtype: str, num_summary_tokens: int | None = None
) -> Provenance:
    """The provenance of what the compressor in a folder writes, from its files, without loading the model.

    `num_summary_tokens` of its queries are asked, all if not given.

    The hash of the base weights is the one that the compressor was trained on; `load_compressor`
    refuses any other. Raises ValueError, naming the file, when one is missing, cut or no such file.
    """
    config = read_config(compressor)
    check_trained_files(compressor, config)
    adapters = sorted(path.parent.name for path in compressor.glob(f"*/{ADAPTER_FILE}"))
    hashes = {
        f"{adapter}_adapter_sha256": weights_sha256(compressor / adapter) for adapter in adapters
    }
    chosen = config.method
    compared = {"method": chosen.model_dump_json()} if chosen.name not in WITH_QUERIES else {}
    return Provenance(
        schema_version=SCHEMA_VERSION,
        codec=codec,
        fit_sha256=None,
        num_summary_tokens=num_summary_tokens or config.compressor.num_summary_tokens,
        dim=config.dim,
        base=config.base_model,
        model={
            "base_weights_sha256": config.base_weights_sha256,
            **{
                f"{whose}{SETTINGS}": value
                for whose, value in sorted((config.settings_sha256 or {}).items())
            },
            **hashes,
            **compared,
            "summary_queries_sha256": weights_sha256(compressor),
            "prompt": config.compressor.prompt,
            "attention": config.compressor.attention,
            # as stores have always called it
            "passes": "single" if chosen.name == SINGLE_FORWARD else "double",
            "summary_scale": str(config.compressor.summary_scale),
        },
        preprocessing=config.model_dump(mode="json")["preprocessing"],
        compute={"dtype": dtype, "attention": ATTENTION},
        libraries={library: version(library) for library in LIBRARIES},
    )


def find_base(compressor: Path, base: str | None) -> str:
    """Where the base model is: `base` if given, else the folder of its name beside the compressor, else its hub id.

    Raises ValueError when the name can be neither.
    """
    if base is not None:
        return base
    name = read_config(compressor).base_model
    beside = compressor.resolve().parent / name
    if beside.is_dir():
        return str(beside)
    if "/" not in name:
        raise ValueError(
            f"{compressor}: its base model {name!r} is not at {beside}; say where it is with --base FOLDER"
        )
    return name


def check_base(compressor: Path, base: str) -> None:
    """Raises ValueError, before any worker starts, when a base model in a folder is not that of the compressor.

    Or when it is not whole.
    """
    if not Path(base).is_dir():
        return
    config = read_config(compressor)
    check_base_model(base, None)
    found = weights_sha256(Path(base))
    if found != config.base_weights_sha256:
        raise ValueError(
            f"base model {base}: SHA-256 of the weights is {found}, but {compressor} needs "
            f"{config.base_weights_sha256}; use the base model it was trained on"
        )
    own = {whose: value for whose, value in (config.settings_sha256 or {}).items() if whose == BASE}
    expect_settings(
        base,
        {BASE: settings_sha256(Path(base))},
        config.model_copy(update={"settings_sha256": own}),
    )


def check_same_model(store: Provenance, compressor: Path) -> None:
    """Raises StoreError, with both values, when the compressor in a folder is not the one that wrote a store."""
    model = provenance_of(compressor, store.codec, store.compute["dtype"], store.num_summary_tokens)
    differing = differences(store, model.model_copy(update={"fit_sha256": store.fit_sha256}))
    if differing:
        raise StoreError(
            f"the store was written by another model than {compressor} (store != model): {'; '.join(differing)}; "
            "use the compressor that wrote it, or compress the pictures again"
        )
