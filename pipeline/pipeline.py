"""The pipeline: its components in the order of the data."""

import dataclasses

from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.components import Evaluator, ExampleValidator, StatisticsGen, Trainer, Transform
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import pipeline
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.proto import trainer_pb2, transform_pb2
from tfx.types import standard_artifacts

from bert_tfx.components.baseline.strategy import LatestOtherBlessedModelStrategy
from bert_tfx.components.data_gate.component import DataGate
from bert_tfx.components.model_pusher.component import ModelPusher
from bert_tfx.components.tsv_example_gen.component import TsvExampleGen
from bert_tfx.modeling.checkpoint_files import find_checkpoint
from bert_tfx.pipeline.config import Config
from bert_tfx.pipeline.evaluation import eval_config
from bert_tfx.pipeline.fingerprint import file_fingerprint, source_fingerprint
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import EVAL, TRAIN
from bert_tfx.schema.tfdv_schema import write_task_schema

_PREPROCESSING = "bert_tfx.modeling.preprocessing"
_TRAINING = "bert_tfx.modeling.training"
_TSV_EXAMPLE_GEN = "bert_tfx.components.tsv_example_gen.executor"
_DATA_GATE = "bert_tfx.components.data_gate.executor"


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
        InputError: If the task's files are missing or do not fit it, or no vocabulary is named.
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

    # The data is held against the task's schema before anything learns from it.
    import_schema = ImportSchemaGen(schema_file=write_task_schema(task, layout, config.schema_dir))
    schema = import_schema.outputs["schema"]
    statistics_gen = StatisticsGen(examples=examples, schema=schema)
    example_validator = ExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema, exclude_splits=unlabelled
    )
    data_gate = DataGate(
        statistics=statistics_gen.outputs["statistics"],
        schema=schema,
        anomalies=example_validator.outputs["anomalies"],
        task=task,
        unlabelled_splits=unlabelled,
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
    model = trainer.outputs["model"]

    # The candidate is measured as it will be served, against the last model that was good enough.
    baseline = Resolver(
        strategy_class=LatestOtherBlessedModelStrategy,
        model=types.Channel(type=standard_artifacts.Model),
        model_blessing=types.Channel(type=standard_artifacts.ModelBlessing),
        candidate=model,
    ).with_id("Baseline")
    evaluator = Evaluator(
        examples=examples,
        model=model,
        baseline_model=baseline.outputs["model"],
        eval_config=eval_config(
            task,
            min_accuracy=config.min_accuracy,
            max_regression=config.max_regression,
            slice_columns=config.slice_columns,
        ),
        schema=schema,
        example_splits=[EVAL],
    )
    pusher = ModelPusher(
        model=model,
        model_blessing=evaluator.outputs["blessing"],
        base_directory=config.serving_dir,
        server=config.push_server,
        model_name=config.push_model_name,
        server_timeout=config.push_timeout,
    )

    return pipeline.Pipeline(
        pipeline_name=config.pipeline_name,
        pipeline_root=config.artifacts_dir,
        components=[
            example_gen,
            import_schema,
            statistics_gen,
            example_validator,
            data_gate,
            transform,
            trainer,
            baseline,
            evaluator,
            pusher,
        ],
        metadata_connection_config=metadata_connection_config
        or sqlite_metadata_connection_config(config.metadata_file),
        enable_cache=True,
        beam_pipeline_args=config.beam_pipeline_args,
    )
