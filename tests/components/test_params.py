import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from components.params import Params, ParamsError, load_params


class OptimizerParams(Params):
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: float
    betas: tuple[float, float]


class TrainParams(Params):
    num_summary_tokens: Annotated[int, Field(ge=1)]
    attention: Literal["sdpa", "eager"]
    is_frozen: bool
    optimizer: OptimizerParams
    prompts: tuple[str, ...]
    max_steps: int | None


VALID = """
train:
  num_summary_tokens: 4  # vectors per picture
  attention: sdpa
  is_frozen: true
  optimizer:
    learning_rate: 2e-5
    weight_decay: 0
    betas: [0.9, 0.95]
  prompts: [describe the picture]
  max_steps: null
"""


def load(tmp_path: Path, text: str, section: str = "train") -> TrainParams:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return load_params(section, TrainParams, path)


def fault(tmp_path: Path, old: str, new: str) -> str:
    """Message for the valid file with one change, without the folder."""
    assert VALID.count(old) == 1
    with pytest.raises(ParamsError) as error:
        load(tmp_path, VALID.replace(old, new))
    return str(error.value).replace(f"{tmp_path}/", "")


def test_load_params_valid_section_has_the_values_of_the_file(tmp_path: Path) -> None:
    params = load(tmp_path, VALID)
    assert params.optimizer.learning_rate == 0.00002
    assert params.optimizer.betas == (0.9, 0.95)
    assert params.prompts == ("describe the picture",)
    assert params.is_frozen is True
    assert params.max_steps is None


@pytest.mark.parametrize(
    ("written", "value"), [("2e-5", 2e-5), ("1e-4", 1e-4), ("2.0E-05", 2e-5), ("3", 3.0)]
)
def test_load_params_scientific_notation_is_a_number(
    tmp_path: Path, written: str, value: float
) -> None:
    params = load(tmp_path, VALID.replace("2e-5", written))
    assert params.optimizer.learning_rate == value
    assert isinstance(params.optimizer.learning_rate, float)


def test_params_survive_the_way_to_a_ray_worker(tmp_path: Path) -> None:
    params = load(tmp_path, VALID)
    assert TrainParams.model_validate(params.model_dump()) == params


def test_params_are_immutable(tmp_path: Path) -> None:
    params = load(tmp_path, VALID)
    with pytest.raises(ValidationError):
        params.num_summary_tokens = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tokens: 4", "tokens: 0", "params.yaml: train.num_summary_tokens: 0 is not ≥ 1"),
        (
            "tokens: 4",
            "tokens: four",
            "params.yaml: train.num_summary_tokens: 'four' is not an integer",
        ),
        (
            "tokens: 4",
            "tokens: '4'",
            "params.yaml: train.num_summary_tokens: '4' is not an integer",
        ),
        (
            "tokens: 4",
            "tokens: 4.5",
            "params.yaml: train.num_summary_tokens: 4.5 is not an integer",
        ),
        (
            "tokens: 4",
            "tokens: 4.0",
            "params.yaml: train.num_summary_tokens: 4.0 is not an integer",
        ),
        (
            "tokens: 4",
            "tokens: true",
            "params.yaml: train.num_summary_tokens: True is not an integer",
        ),
        ("2e-5", "-1.0", "params.yaml: train.optimizer.learning_rate: -1.0 is not > 0.0"),
        ("2e-5", "true", "params.yaml: train.optimizer.learning_rate: True is not a number"),
        ("2e-5", "'2e-5'", "params.yaml: train.optimizer.learning_rate: '2e-5' is not a number"),
        ("2e-5", ".nan", "params.yaml: train.optimizer.learning_rate: nan is not a finite number"),
        ("2e-5", ".inf", "params.yaml: train.optimizer.learning_rate: inf is not a finite number"),
        ("is_frozen: true", "is_frozen: 1", "params.yaml: train.is_frozen: 1 is not true or false"),
        (
            "is_frozen: true",
            "is_frozen: yes",
            "params.yaml: train.is_frozen: 'yes' is not true or false",
        ),
        ("sdpa", "flash", "params.yaml: train.attention: 'flash' is not one of 'sdpa' or 'eager'"),
        ("[describe the picture]", "[7]", "params.yaml: train.prompts.0: 7 is not a string"),
        (
            "[describe the picture]",
            "describe",
            "params.yaml: train.prompts: 'describe' is not a list",
        ),
        (
            "    weight_decay: 0\n",
            "",
            "params.yaml: train.optimizer.weight_decay: the key is missing",
        ),
    ],
)
def test_load_params_bad_value_names_file_key_and_value(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert fault(tmp_path, old, new) == message


def test_load_params_misspelt_key_is_unknown_and_suggests_the_missing_one(tmp_path: Path) -> None:
    message = fault(tmp_path, "learning_rate", "lerning_rate")
    assert (
        "params.yaml: train.optimizer.lerning_rate: unknown key; did you mean 'learning_rate'?"
        in message
    )
    assert "params.yaml: train.optimizer.learning_rate: the key is missing" in message


def test_load_params_extra_key_suggests_the_present_one(tmp_path: Path) -> None:
    message = fault(tmp_path, "  attention: sdpa", "  attention: sdpa\n  atention: eager")
    assert message == "params.yaml: train.atention: unknown key; did you mean 'attention'?"


def test_load_params_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    message = fault(
        tmp_path,
        "tokens: 4  # vectors per picture\n  attention: sdpa",
        "tokens: 0\n  attention: flash",
    )
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("  attention: sdpa", "  attention: sdpa\n  attention: eager", "train.attention (line 5)"),
        (
            "    weight_decay: 0",
            "    weight_decay: 0\n    weight_decay: 0",
            "train.optimizer.weight_decay (line 9)",
        ),
        ("  max_steps: null", "  max_steps: null\ntrain: {}", "train (line 12)"),
    ],
)
def test_load_params_duplicate_key_is_an_error(
    tmp_path: Path, old: str, new: str, key: str
) -> None:
    assert fault(tmp_path, old, new) == f"params.yaml: {key}: the key is written twice"


def test_load_params_missing_section_suggests_a_close_one(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"trian: the section is missing; did you mean 'train'\?"):
        load(tmp_path, VALID, section="trian")


@pytest.mark.parametrize("text", ["", "just text", "- a\n- b"])
def test_load_params_file_without_sections_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ParamsError, match="not a mapping of sections"):
        load(tmp_path, text)


def test_load_params_section_that_is_no_mapping_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="train: 3 is not a mapping"):
        load(tmp_path, "train: 3")


@pytest.mark.parametrize(
    "text", ["train: [1, 2", "train: !!python/object/apply:os.getcwd []", "train:\n\t- x"]
)
def test_load_params_broken_yaml_and_tags_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ParamsError, match=r"params.yaml: is not YAML"):
        load(tmp_path, text)


def test_load_params_without_a_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"git checkout params\.yaml"):
        load_params("train", TrainParams, tmp_path / "params.yaml")


def test_load_params_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match="is not UTF-8"):
        load_params("train", TrainParams, tmp_path / "params.yaml")


def test_load_params_message_of_a_validator_is_kept(tmp_path: Path) -> None:
    class Window(Params):
        low: int
        high: int

        @model_validator(mode="after")
        def check(self) -> "Window":
            if self.low > self.high:
                raise ValueError(f"low {self.low} is above high {self.high}")
            return self

    path = tmp_path / "params.yaml"
    path.write_text("window: {low: 2, high: 1}")
    with pytest.raises(ParamsError, match=r"params.yaml: window: low 2 is above high 1"):
        load_params("window", Window, path)


class Left(Params):
    format: Literal["left"]
    size: int


class Right(Params):
    format: Literal["right"]
    name: str


class Sides(Params):
    sides: dict[str, Annotated[Left | Right, Field(discriminator="format")]]


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        ("{format: left, size: x}", "side.sides.a.size: 'x' is not an integer"),
        ("{format: left, size: 1, nam: b}", "side.sides.a.nam: unknown key"),
        ("{format: right, nam: b}", "side.sides.a.nam: unknown key; did you mean 'name'?"),
        ("{format: middle}", "side.sides.a: 'middle' is not one of 'left', 'right'"),
        ("{size: 1}", "side.sides.a: the key format is missing"),
    ],
)
def test_a_mapping_of_one_of_several_kinds_is_told_by_its_format(
    tmp_path: Path, side: str, expected: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"side:\n  sides:\n    a: {side}\n")
    with pytest.raises(ParamsError) as caught:
        load_params("side", Sides, path)
    assert expected in str(caught.value)


BOMB = "train: {a: &a [1,1,1,1,1,1,1,1,1,1]}\n" + "".join(
    f"s{i}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: &a {x: *a}", "line 1: *a stands inside of what it names"),
        ("train: &a [*a]", "line 1: *a stands inside of what it names"),
        ("train: &a\n  x: &b\n    y: [*b, *a]", "line 3: *b stands inside"),
        (BOMB, "holds more than 100000 values"),
        ("train: " + "[" * 2000 + "]" * 2000, "line 1: is nested more than 32 deep"),
        ("\n".join("  " * i + "a:" for i in range(40)), "is nested more than 32 deep"),
        ("train: {{ x }}", "train (line 1): a key is a list or a mapping"),
        ("train: {[1, 2]: 3}", "train (line 1): a key is a list or a mapping"),
        ("{{ x }}: 1", "(line 1): a key is a list or a mapping"),
        ("train:\n  2023-01-01: 3", "train.2023-01-01 (line 2): the key is not text"),
        ("train:\n  1: 3", "train.1 (line 2): the key is not text"),
        ("train:\n  null: 3", "train.null (line 2): the key is not text"),
        ("train:\n  .nan: 3", "train..nan (line 2): the key is not text"),
        ("train:\n\tx: 1", "is not YAML: line 2, column 1"),
        ("train: {}\n---\ntrain: {}", "is not YAML: line 2, column 1: but found another document"),
        ("train: *x", "is not YAML: line 1, column 8: found undefined alias"),
        (
            "train: !!python/object/apply:os.getcwd []",
            "is not YAML: line 1, column 8: could not determine a constructor",
        ),
        ("train: {x: 2023-13-45}", "is not YAML: month must be in 1..12"),
        ("train: {x: !!int abc}", "is not YAML: invalid literal"),
        ("train: {<<: 3}", "is not YAML: line 1, column"),
        ("train: \x00", "is not YAML"),
        ("train: {x: " + "9" * 5000 + "}", "is not YAML: Exceeds the limit"),
        ("# " + "x" * (1 << 20), "has more than 1048576 bytes"),
    ],
)
@pytest.mark.timeout(20)
def test_load_params_yaml_that_nobody_should_write_is_one_line_with_its_place(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        load(tmp_path, text)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/params.yaml: ")
    assert message in said
    assert len(said.splitlines()) == 1


def test_load_params_anchors_and_merges_are_values_like_others(tmp_path: Path) -> None:
    text = VALID.replace("  optimizer:", "  optimizer: &o").replace(
        "train:", "base: &b {is_frozen: true}\ntrain:\n  <<: *b", 1
    )
    assert load(
        tmp_path,
        text.replace("  is_frozen: true\n", "").replace(
            "    betas: [0.9, 0.95]", "    betas: &x [0.9, 0.95]"
        ),
    )


def test_load_params_folder_in_place_of_the_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(ParamsError, match=r"params.yaml: is not a file"):
        load_params("train", TrainParams, tmp_path / "params.yaml")


def test_load_params_pipe_in_place_of_the_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.yaml")
    with pytest.raises(ParamsError, match=r"params.yaml: is not a file"):
        load_params("train", TrainParams, tmp_path / "params.yaml")


WORDS = (
    "train: ,{,},[,],- ,: ,&a ,*a,<<: ,!!set,!!binary,? ,|,>,#,---,...,1e999,.nan,0x_,2023-01-01,"
    "0:0:99,=,~,@"
)
PIECES = st.sampled_from(
    [*WORDS.split(","), *("\n", "  ", "\t", "'", '"', "%YAML 1.1\n", "\ufeff", "\x85")]
)


@settings(max_examples=300)
@given(st.lists(PIECES | st.text(max_size=3), max_size=25).map("".join))
def test_load_params_drawn_text_is_refused_in_words(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(ParamsError):
            load_params("train", TrainParams, path)


def write(folder: Path, text: str) -> Path:
    file = folder / "params.yaml"
    file.write_text(text)
    return file


class Limits(Params):
    side: int


class Inner(Params):
    pictures: Limits


class Outer(Params):
    inner: Inner
    steps: int


SHARED_FILE = (
    "pictures: {side: 3}\na: {inner: {}, steps: 1}\nb: {inner: {pictures: {side: 5}}, steps: 1}\n"
)


def test_a_shared_block_holds_for_sections_without_one_of_their_own(tmp_path: Path) -> None:
    file = write(tmp_path, SHARED_FILE)
    assert load_params("a", Outer, file).inner.pictures.side == 3
    assert load_params("b", Outer, file).inner.pictures.side == 5


def test_a_fault_of_a_shared_block_is_named_where_it_stands(tmp_path: Path) -> None:
    file = write(tmp_path, SHARED_FILE.replace("side: 3", "side: none"))
    with pytest.raises(ParamsError, match=r": pictures\.side: 'none' is not an integer"):
        load_params("a", Outer, file)


def test_bytes_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "a: {side: !!binary aGVsbG8=}\n")
    with pytest.raises(ParamsError, match="neither text"):
        load_params("a", Limits, file)


@pytest.mark.parametrize("block", ["pictures: 3", "pictures: null", "other: 1"])
def test_a_shared_block_that_is_none_is_named_at_the_top(tmp_path: Path, block: str) -> None:
    file = write(tmp_path, f"{block}\na: {{inner: {{}}, steps: 1}}\n")
    with pytest.raises(ParamsError, match=r"params\.yaml: pictures: "):
        load_params("a", Outer, file)
