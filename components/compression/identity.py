"""The identity of a trained compressor: the provenance of its stores, and who may read them."""

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
from components.store.provenance import SCHEMA_VERSION, Provenance, StoreError, differences

LIBRARIES = ("numpy", "peft", "pillow", "pyarrow", "torch", "transformers")
BASE = "base"  # key of the base model's settings
ATTENTION = "sdpa"  # what `load_compressor` loads


def read_config(compressor: Path) -> CompressorConfig:
    """Read the settings of a trained compressor. Raises ValueError when the folder holds none."""
    try:
        return load_config(compressor)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{compressor}: holds no trained compressor (no {CONFIG_FILE}); train one with `dvc "
            "repro train`, or fetch one with `dvc pull`"
        ) from None


def provenance_of(
    compressor: Path, codec: Codec, dtype: str, num_summary_tokens: int | None = None
) -> Provenance:
    """Return the provenance of the tokens that a compressor writes, without loading the model.

    `num_summary_tokens`: the first of the compressor's; all if not given. The hash of the base
    weights is the one that the compressor was trained on; `load_compressor` refuses any other.
    Raises ValueError, naming the file, when one is missing, cut or no such file.
    """
    config = read_config(compressor)
    check_trained_files(compressor, config)

    # Everything but the pictures that decides the tokens; existing stores have these keys.
    model = {"base_weights_sha256": config.base_weights_sha256}
    for part, value in sorted(config.settings_sha256.items()):
        model[f"{part}_settings_sha256"] = value
    for path in sorted(compressor.glob(f"*/{ADAPTER_FILE}")):
        model[f"{path.parent.name}_adapter_sha256"] = weights_sha256(path.parent)
    if config.method.name not in WITH_QUERIES:
        model["method"] = config.method.model_dump_json()
    model |= {
        "summary_queries_sha256": weights_sha256(compressor),
        "prompt": config.compressor.prompt,
        "attention": config.compressor.attention,
        "passes": "single" if config.method.name == SINGLE_FORWARD else "double",
        "summary_scale": str(config.compressor.summary_scale),
    }

    return Provenance(
        schema_version=SCHEMA_VERSION,
        codec=codec,
        fit_sha256=None,
        num_summary_tokens=num_summary_tokens or config.compressor.num_summary_tokens,
        dim=config.dim,
        base=config.base_model,
        model=model,
        preprocessing=config.model_dump(mode="json")["preprocessing"],
        compute={"dtype": dtype, "attention": ATTENTION},
        libraries={library: version(library) for library in LIBRARIES},
    )


def find_base(compressor: Path, base: str | None) -> str:
    """Find the base model: `base` if given, else a folder beside the compressor, else the hub id.

    Raises ValueError when the name can be neither.
    """
    if base is not None:
        return base

    # A compressor lies beside its base model, so that both can be moved together.
    name = read_config(compressor).base_model
    beside = compressor.resolve().parent / name
    if beside.is_dir():
        return str(beside)
    if "/" not in name:
        raise ValueError(
            f"{compressor}: its base model {name!r} is not at {beside}; say where it is with "
            "--base FOLDER"
        )
    return name


def check_base(compressor: Path, base: str) -> None:
    """Raise ValueError when the base model in a folder is damaged or not the compressor's.

    The check comes before any worker starts.
    """
    # A hub id is checked when the model is loaded.
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

    # Settings of a method's own parts are compared when it is loaded.
    own = {part: value for part, value in config.settings_sha256.items() if part == BASE}
    only_base = config.model_copy(update={"settings_sha256": own})
    expect_settings(base, {BASE: settings_sha256(Path(base))}, only_base)


def check_same_model(store: Provenance, compressor: Path) -> None:
    """Raise StoreError, with both values, when a compressor is not the one that wrote a store."""
    model = provenance_of(compressor, store.codec, store.compute["dtype"], store.num_summary_tokens)
    differing = differences(store, model.model_copy(update={"fit_sha256": store.fit_sha256}))
    if differing:
        raise StoreError(
            f"the store was written by another model than {compressor} (store != model): "
            f"{'; '.join(differing)}; use the compressor that wrote it, or compress the pictures "
            "again"
        )
