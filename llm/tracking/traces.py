"""Generated answers as MLflow Traces: prompt, answer, tokens and time, with the reference and the judge's score.

A stage calls `record` while it runs; the first `tracking.traces` answers go through its spool. The recorder makes the
traces of them. When the run of the whole `dvc repro` is completed, the judge's scores are added to the same traces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llm.tracking import tracker

INDEX = "index"  # a tag: the number of the answer in its report
REFERENCE, SCORE = "reference", "score"


@dataclass(frozen=True)
class Answer:
    """A generated answer."""

    index: int  # in the report
    model: str  # its folder
    question: str
    prompt: str  # the question in its frame
    text: str
    reference: str
    prompt_tokens: int
    tokens: int  # of the answer
    started: int  # nanoseconds since 1970: of the batch that it was decoded in
    ended: int


def record(answers: Iterable[Answer]) -> None:
    """Record answers for MLflow, as many as `tracking.traces` says; nothing if no tracked stage runs here."""
    if current := tracker.current():
        for answer in answers:
            current.trace(asdict(answer))


def log(experiment: str, run: str, found: Answer) -> None:
    """Make the trace of an answer in a run."""
    import mlflow
    from mlflow.entities import AssessmentSource, SpanType
    from mlflow.tracing.constant import SpanAttributeKey, TokenUsageKey, TraceMetadataKey

    span = mlflow.start_span_no_context(
        "answer",
        SpanType.LLM,
        inputs={"question": found.question, "prompt": found.prompt},
        tags={INDEX: str(found.index)},
        metadata={TraceMetadataKey.SOURCE_RUN: run},
        experiment_id=experiment,
        start_time_ns=found.started,
    )
    usage = {TokenUsageKey.INPUT_TOKENS: found.prompt_tokens, TokenUsageKey.OUTPUT_TOKENS: found.tokens}
    usage[TokenUsageKey.TOTAL_TOKENS] = found.prompt_tokens + found.tokens
    span.set_attributes({SpanAttributeKey.CHAT_USAGE: usage, SpanAttributeKey.MODEL: found.model})
    span.set_outputs(found.text)
    span.end(end_time_ns=found.ended)
    source = AssessmentSource("HUMAN", "data")
    mlflow.log_expectation(trace_id=span.trace_id, name=REFERENCE, value=found.reference, source=source)


def of_run(experiment: str, run: str) -> dict[int, Any]:
    """The traces of a run by the number of the answer."""
    import mlflow

    found = mlflow.search_traces(
        locations=[experiment], run_id=run, return_type="list", include_spans=False, flush=True
    )
    return {int(trace.info.tags[INDEX]): trace for trace in found if INDEX in trace.info.tags}


def are_scores(report: Any) -> bool:
    """Whether a report has the scores of answers."""
    return isinstance(report, list) and bool(report) and {INDEX, SCORE} <= set(report[0])


def log_scores(experiment: str, run: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Add the scores of a judge with these settings, a row for each answer, to the traces of the run that answered.

    A score that the same judge gave to the same answer before stays as it is.
    """
    import mlflow
    from mlflow.entities import AssessmentSource

    code = settings.get("backend") == "reference"  # a formula
    words = [settings.get("backend"), None if code else settings.get("model"), None if code else settings.get("prompt")]
    source = AssessmentSource("CODE" if code else "LLM_JUDGE", " ".join(str(word) for word in words if word) or "judge")
    scores = {row["index"]: row for row in rows if row[SCORE] is not None}
    for index, trace in of_run(experiment, run).items():
        known = {one.source.source_id for one in trace.info.assessments if one.name == SCORE}
        if index in scores and source.source_id not in known:
            why = ", ".join(scores[index].get("flags") or []) or None
            value = scores[index][SCORE]
            mlflow.log_feedback(trace_id=trace.info.trace_id, name=SCORE, value=value, source=source, rationale=why)
