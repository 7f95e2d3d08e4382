"""The pipeline: its components in the order of the data."""

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow_data_validation as tfdv
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.components import Evaluator, ExampleValidator, StatisticsGen, Trainer, Transform
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base import base_beam_component, base_node
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import pipeline
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.proto import trainer_pb2, transform_pb2
from tfx.types import standard_artifacts

from bert_tfx.components.baseline.strategy import (
    LatestOtherAcceptedStatisticsStrategy,
    LatestOtherBlessedModelStrategy,
)
from bert_tfx.components.data_gate.component import DataGate, DataGateReport
from bert_tfx.components.model_pusher.component import ModelPusher
from bert_tfx.components.predictor.component import Predictor
from bert_tfx.components.predictor.predictions import SLICE_FEATURES
from bert_tfx.components.promotion_gate.component import PromotionGate
from bert_tfx.components.report.component import Report
from bert_tfx.components.serving_gate.component import ServingGate
from bert_tfx.components.token_gate.component import TokenGate, TokenGateReport
from bert_tfx.components.token_gate.executor import statistics_options
from bert_tfx.components.tsv_example_gen.component import TsvExampleGen
from bert_tfx.modeling.checkpoint_files import find_checkpoint
from bert_tfx.pipeline.config import Config
from bert_tfx.pipeline.evaluation import eval_config
from bert_tfx.pipeline.fingerprint import file_fingerprint, source_fingerprint
from bert_tfx.pipeline.resources import Resources
from bert_tfx.pipeline.run_report import config_json, report_fingerprint
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import EVAL, TRAIN
from bert_tfx.schema.tfdv_schema import write_task_schema

_PREPROCESSING = "bert_tfx.modeling.preprocessing"
_TRAINING = "bert_tfx.modeling.training"
_TSV_EXAMPLE_GEN = "bert_tfx.components.tsv_example_gen.executor"
_DATA_GATE = "bert_tfx.components.data_gate.executor"
_TOKEN_GATE = "bert_tfx.components.token_gate.executor"
_PREDICTOR = "bert_tfx.components.predictor.executor"
_PROMOTION_GATE = "bert_tfx.components.promotion_gate.executor"
_SERVING_GATE = "bert_tfx.components.serving_gate.executor"


def create_pipeline(
    config: Config,
    metadata_connection_config: metadata_store_pb2.ConnectionConfig | None = None,
) -> pipeline.Pipeline:
    """Makes the pipeline of a run.

    Args:
        config: What to run.
        metadata_connection_config: Where lineage is kept; by default the run's SQLite file.

    Returns:
        The pipeline, for any TFX orchestrator.

    Raises:
        InputError: If the task's files are missing or do not fit it, no vocabulary is named, or
            resources are for a node that there is not, or that they do not fit.
    """
    if config.vocab_file is None:
        raise InputError("a vocabulary is missing: --vocab names the vocab.txt of the checkpoint")
    task, layout = config.task, config.layout
    unlabelled = [split for split, files in layout.splits.items() if not files.labelled]

    # TSV rows become tf.Examples; rows that do not fit are kept with the reason.
    example_gen = TsvExampleGen(
        task=task,
        layout=layout,
        data_dir=config.data_dir,
        rejects_dir=config.rejects_dir,
        max_rejects=config.max_rejects,
        eval_fraction=config.eval_fraction,
        fingerprint=source_fingerprint(_TSV_EXAMPLE_GEN),
    )
    examples = example_gen.outputs["examples"]

    # The data is held against the task's schema, itself and the data of the last run that was
    # accepted, before anything learns from it.
    import_schema = ImportSchemaGen(schema_file=write_task_schema(task, layout, config.schema_dir))
    schema = import_schema.outputs["schema"]
    # What stands in the files: not where, a value of its own in each row.
    columns = dict.fromkeys(name for files in layout.splits.values() for name in files.columns)
    statistics_gen = StatisticsGen(
        examples=examples,
        schema=schema,
        stats_options=tfdv.StatsOptions(feature_allowlist=list(columns)),
    )
    statistics = statistics_gen.outputs["statistics"]
    example_validator = ExampleValidator(
        statistics=statistics, schema=schema, exclude_splits=unlabelled
    )
    accepted_data = _accepted(statistics, DataGateReport).with_id("AcceptedData")
    data_gate = DataGate(
        examples=examples,
        statistics=statistics,
        schema=schema,
        anomalies=example_validator.outputs["anomalies"],
        baseline_statistics=accepted_data.outputs["statistics"],
        task=task,
        unlabelled_splits=unlabelled,
        limits=config.data_limits,
        report_text=config.report_text,
        fingerprint=source_fingerprint(_DATA_GATE),
    )

    # Text becomes token ids, in the graph that the served model carries.
    transform = Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn=f"{_PREPROCESSING}.preprocessing_fn",
        stats_options_updater_fn=f"{_PREPROCESSING}.stats_options_updater_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=[TRAIN], transform=[TRAIN, EVAL]),
        custom_config={
            "vocab_file": config.vocab_file,
            "vocab_fingerprint": file_fingerprint(config.vocab_file),
            "lowercase": config.lowercase,
            "max_length": config.recipe.max_length,
            "fingerprint": source_fingerprint(_PREPROCESSING),
        },
    )
    transform.add_upstream_node(data_gate)

    token_statistics_gen = StatisticsGen(
        examples=transform.outputs["transformed_examples"], stats_options=statistics_options()
    ).with_id("TokenStatistics")
    token_statistics = token_statistics_gen.outputs["statistics"]
    accepted_tokens = _accepted(token_statistics, TokenGateReport).with_id("AcceptedTokens")
    token_gate = TokenGate(
        statistics=token_statistics,
        baseline_statistics=accepted_tokens.outputs["statistics"],
        task=task,
        limits=config.data_limits,
        fingerprint=source_fingerprint(_TOKEN_GATE),
    )

    trainer = Trainer(
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema,
        run_fn=f"{_TRAINING}.run_fn",
        train_args=trainer_pb2.TrainArgs(splits=[TRAIN]),
        eval_args=trainer_pb2.EvalArgs(splits=[EVAL]),
        custom_config={
            "task": task.to_json(),
            "recipe": dataclasses.asdict(config.recipe),
            "model": config.model,
            "size": config.size,
            "pretrained": config.pretrained,
            "pretrained_fingerprint": config.pretrained
            and file_fingerprint(*find_checkpoint(config.pretrained).files),
            "lowercase": config.lowercase,
            "eval_fraction": config.eval_fraction,
            "state_dir": config.state_dir,
            "fingerprint": source_fingerprint(_TRAINING),
        },
    )
    trainer.add_upstream_node(token_gate)
    model = trainer.outputs["model"]

    # The candidate answers as it will be served, beside the last model that was good enough. What
    # they answer is measured, and decides.
    baseline = Resolver(
        strategy_class=LatestOtherBlessedModelStrategy,
        model=types.Channel(type=standard_artifacts.Model),
        model_blessing=types.Channel(type=standard_artifacts.ModelBlessing),
        candidate=model,
    ).with_id("Baseline")
    predictor = Predictor(
        examples=examples,
        data_report=data_gate.outputs["report"],
        model=model,
        baseline_model=baseline.outputs["model"],
        fingerprint=source_fingerprint(_PREDICTOR),
    )
    predictions = predictor.outputs["predictions"]
    evaluator = Evaluator(
        examples=predictions,
        baseline_model=baseline.outputs["model"],
        eval_config=eval_config(task, slice_columns=config.slice_columns),
        example_splits=[EVAL],
    )
    promotion_gate = PromotionGate(
        predictions=predictions,
        model=model,
        baseline_model=baseline.outputs["model"],
        task=task,
        limits=config.promotion,
        slice_features=(*SLICE_FEATURES, *config.slice_columns),
        fingerprint=source_fingerprint(_PROMOTION_GATE),
    )

    # A server has it, and is asked, before it is pushed.
    serving_gate = ServingGate(
        model=model,
        model_blessing=promotion_gate.outputs["blessing"],
        predictions=predictions,
        base_directory=config.serving_dir,
        limits=config.serving,
        fingerprint=source_fingerprint(_SERVING_GATE),
    )
    pusher = ModelPusher(
        model=model,
        model_blessing=promotion_gate.outputs["blessing"],
        infra_blessing=serving_gate.outputs["blessing"],
        base_directory=config.serving_dir,
        server=config.push_server,
        model_name=config.push_model_name,
        server_timeout=config.push_timeout,
        **{f"server_{name}": path for name, path in config.push_files.items()},
    )

    report = Report(
        inputs={
            "examples": examples,
            "statistics": statistics,
            "anomalies": example_validator.outputs["anomalies"],
            "data_report": data_gate.outputs["report"],
            "token_statistics": token_statistics,
            "token_report": token_gate.outputs["report"],
            "model": model,
            "model_run": trainer.outputs["model_run"],
            "baseline_model": baseline.outputs["model"],
            "predictions": predictions,
            "evaluation": evaluator.outputs["evaluation"],
            "decision": promotion_gate.outputs["decision"],
            "findings": serving_gate.outputs["findings"],
            "pushed_model": pusher.outputs["pushed_model"],
        },
        config=config_json(config),
        report_text=config.report_text,
        fingerprint=report_fingerprint(),
    )

    nodes = [
        example_gen,
        import_schema,
        statistics_gen,
        example_validator,
        accepted_data,
        data_gate,
        transform,
        token_statistics_gen,
        accepted_tokens,
        token_gate,
        trainer,
        baseline,
        predictor,
        evaluator,
        promotion_gate,
        serving_gate,
        pusher,
        report,
    ]
    _check_resources(config.resources, nodes)
    return pipeline.Pipeline(
        pipeline_name=config.pipeline_name,
        pipeline_root=config.artifacts_dir,
        components=nodes,
        metadata_connection_config=metadata_connection_config
        or sqlite_metadata_connection_config(config.metadata_file),
        enable_cache=True,
        beam_pipeline_args=config.beam_pipeline_args,
    )


def _check_resources(
    resources: Mapping[str, Resources], nodes: Sequence[base_node.BaseNode]
) -> None:
    """Refuses resources that no node would ever take."""
    by_name = {node.id: node for node in nodes}
    beam = [node.id for node in nodes if isinstance(node, base_beam_component.BaseBeamComponent)]
    for name, given in resources.items():
        if name not in by_name:
            raise InputError(
                f"resources: there is no node {name!r}; the nodes are {', '.join(by_name)}"
            )
        if given.workers is not None and name not in beam:
            raise InputError(
                f"resources, {name}: workers are for nodes with a Beam pipeline, which are "
                f"{', '.join(beam)}"
            )


def _accepted(statistics: types.BaseChannel, report: type[types.Artifact]) -> Resolver:
    """Finds the statistics that a gate accepted last, by its reports, other than these."""
    return Resolver(
        strategy_class=LatestOtherAcceptedStatisticsStrategy,
        statistics=types.Channel(type=standard_artifacts.ExampleStatistics),
        report=types.Channel(type=report),
        candidate=statistics,
    )
