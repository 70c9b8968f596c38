"""Checks of the curated data by Great Expectations: results, Data Docs, failures in words.

Great Expectations takes seconds to import: workers never import this module.
"""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import great_expectations as gx
from great_expectations.core.run_identifier import RunIdentifier

from components.curation.expectations import CRITICAL, Suite

# Results carry this time: the same tables give the same files.
RUN_TIME = datetime(2000, 1, 1, tzinfo=UTC)
TIME_PATTERN = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
UUID_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
DROPPED_FIELDS = ("meta", "id", "exception_traceback")  # times, random ids, paths of this machine


def validate(suites: Sequence[Suite], folder: Path) -> list[str]:
    """Check all suites and write `result.json` and `data_docs/` into `folder`.

    Return one readable line per failed critical expectation.
    """
    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    context.add_data_docs_site(site_name="curated", site_config=_site(folder / "data_docs"))
    results = {suite.table: _run(context, suite) for suite in suites}
    context.build_data_docs(site_names=["curated"])

    # The same tables give the same bytes.
    for page in sorted((folder / "data_docs").rglob("*.html")):
        page.write_text(_without_chance(page.read_text(encoding="utf-8")), encoding="utf-8")
    text = json.dumps(_plain(results), indent=2, sort_keys=True, default=str)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8")
    return critical_failures(results)


def critical_failures(results: Mapping[str, Any]) -> list[str]:
    """Return one readable line per failed critical expectation."""
    lines = []
    for table, result in results.items():
        for outcome in result["results"]:
            severity = outcome["expectation_config"]["severity"]
            if not outcome["success"] and severity == CRITICAL.value:
                lines.append(_describe(table, outcome))
    return lines


def _run(context: Any, suite: Suite) -> dict[str, Any]:
    # the data, which are given to the run itself
    source = context.data_sources.add_or_update_pandas(suite.table)
    batch = source.add_dataframe_asset(suite.table).add_batch_definition_whole_dataframe("whole")

    # the rules, bound to the data
    expectations = gx.ExpectationSuite(name=suite.table, expectations=list(suite.expectations))
    stored = context.suites.add(expectations)
    definition = gx.ValidationDefinition(name=suite.table, data=batch, suite=stored)
    definitions = [context.validation_definitions.add(definition)]

    # a checkpoint, whose results the Data Docs show
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=suite.table, validation_definitions=definitions, result_format="SUMMARY")
    )
    run_id = RunIdentifier(run_name="curate", run_time=RUN_TIME)
    result = checkpoint.run(batch_parameters={"dataframe": suite.frame}, run_id=run_id)
    return next(iter(result.run_results.values())).to_json_dict()


def _describe(table: str, outcome: dict[str, Any]) -> str:
    config, result = outcome["expectation_config"], outcome["result"]
    rule = config.get("description") or config["type"].removeprefix("expect_").replace("_", " ")
    columns = [value for key, value in config["kwargs"].items() if key.startswith("column")]

    # Rules of single rows have counts and examples, rules of a column have a value.
    if "unexpected_count" in result:
        examples = ", ".join(map(str, result["partial_unexpected_list"][:3]))
        counts = f"{result['unexpected_count']} of {result['element_count']}"
        fact = f"{counts} rows do not, for example {examples}"
    else:
        fact = str(result.get("observed_value", "the column is missing"))
    return f"{table}.{'/'.join(map(str, columns))}: {rule}: {fact}"


def _plain(value: Any) -> Any:
    """Return a result without the fields that change from run to run."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in DROPPED_FIELDS}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _without_chance(page: str) -> str:
    """Return a page with fixed times, and fixed ids of its blocks in order of appearance."""
    names: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return names.setdefault(match.group(), str(uuid.UUID(int=len(names) + 1)))

    return TIME_PATTERN.sub(RUN_TIME.strftime("%Y%m%dT%H%M%S.%fZ"), UUID_PATTERN.sub(rename, page))


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(folder.resolve()),
        },
    }
