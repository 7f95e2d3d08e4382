"""The pipeline: its components in the order of the data."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow_data_validation as tfdv
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.components import Evaluator, ExampleValidator, StatisticsGen, Trainer, Transform
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base import base_beam_component, base_node
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import pipeline
from tfx.proto import trainer_pb2, transform_pb2
from tfx.types import standard_artifacts

from bert_tfx.components.baseline.strategy import (
    LatestBlessedModelOfOtherRowsStrategy,
    LatestBlessedTeacherStrategy,
    LatestOtherAcceptedStatisticsStrategy,
    LatestOtherBlessedModelStrategy,
)
from bert_tfx.components.compressor.component import Compressor
from bert_tfx.components.data_gate.component import DataGate, DataGateReport
from bert_tfx.components.model_pusher.component import ModelPusher
from bert_tfx.components.predictor.component import Predictor
from bert_tfx.components.predictor.predictions import BASELINE, CANDIDATE, SLICE_FEATURES
from bert_tfx.components.promotion_gate.component import PromotionGate
from bert_tfx.components.report.component import Report
from bert_tfx.components.serving_gate.component import ServingGate
from bert_tfx.components.teacher_answers.component import TeacherAnswers
from bert_tfx.components.token_gate.component import TokenGate, TokenGateReport
from bert_tfx.components.token_gate.executor import statistics_options
from bert_tfx.components.tsv_example_gen.component import TsvExampleGen
from bert_tfx.components.variant_gate.component import VariantGate
from bert_tfx.modeling.checkpoints.files import find_checkpoint
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.pipeline.configuration.config import Config
from bert_tfx.pipeline.configuration.variants import ANSWERS, CONTROL, STUDENT, TEACHER
from bert_tfx.pipeline.evaluation import eval_config
from bert_tfx.pipeline.metadata.store import connection_config
from bert_tfx.pipeline.reporting.run_report import config_json
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.fingerprint import file_fingerprint, source_fingerprint
from bert_tfx.schema.tasks import EVAL, TRAIN
from bert_tfx.schema.tfdv_schema import write_task_schema

_PREPROCESSING = "bert_tfx.modeling.tfx.preprocessing"
_TRAINING = "bert_tfx.modeling.tfx.trainer"
_TRAINING_ALONE = ("bert_tfx.modeling.training_run", "bert_tfx.modeling.tfx.transformed_rows")
_EXPORT = "bert_tfx.modeling.export"
_ANSWERING = "bert_tfx.modeling.tfx.teacher_answers"
_COMPRESSING = "bert_tfx.modeling.tfx.compressor"


def create_pipeline(
    config: Config,
    metadata_connection_config: metadata_store_pb2.ConnectionConfig
    | metadata_store_pb2.MetadataStoreClientConfig
    | None = None,
) -> pipeline.Pipeline:
    """Makes the pipeline of a run.

    Args:
        config: What to run.
        metadata_connection_config: Where lineage is kept; by default where `config` says.

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
    )

    # Text becomes token ids, in the graph that the served model carries.
    transform = Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn=f"{_PREPROCESSING}.preprocessing_fn",
        # TokenStatistics says what is read of them.
        disable_statistics=True,
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
    )

    learned = _Learned(
        examples=examples,
        data_report=data_gate.outputs["report"],
        transformed_examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema,
    )
    training = _training_nodes(config, learned, after=token_gate)
    trainer, model = training[-1], training[-1].outputs["model"]
    smaller, findings = _smaller_nodes(config, learned, training)
    if smaller:
        model = smaller[-1].outputs["model"]

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
        models={CANDIDATE: model, BASELINE: baseline.outputs["model"]},
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
        student_findings=findings[0] if config.distill else None,
        task=task,
        limits=config.promotion,
        slice_features=(*SLICE_FEATURES, *config.slice_columns),
    )

    # A server has it, and is asked, before it is pushed.
    serving_gate = ServingGate(
        model=model,
        model_blessing=promotion_gate.outputs["blessing"],
        predictions=predictions,
        base_directory=config.serving_dir,
        limits=config.serving,
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
            **_variant_inputs(config, training, findings),
        },
        config=config_json(config),
        report_text=config.report_text,
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
        *training,
        *smaller,
        baseline,
        predictor,
        evaluator,
        promotion_gate,
        serving_gate,
        pusher,
        report,
    ]
    _give_workers(config, nodes)
    return pipeline.Pipeline(
        pipeline_name=config.pipeline_name,
        pipeline_root=config.artifacts_dir,
        components=nodes,
        metadata_connection_config=metadata_connection_config
        or connection_config(config.metadata_address),
        enable_cache=True,
        beam_pipeline_args=config.beam.arguments(),
    )


@dataclasses.dataclass(frozen=True)
class _Learned:
    """What models learn from and are measured on."""

    examples: types.BaseChannel
    data_report: types.BaseChannel
    transformed_examples: types.BaseChannel
    transform_graph: types.BaseChannel
    schema: types.BaseChannel


def _training_nodes(
    config: Config, learned: _Learned, after: base_node.BaseNode
) -> list[base_node.BaseNode]:
    """Returns what trains the model, the node that makes it last."""

    def trainer(
        of: Config,
        name: str,
        base_model: types.BaseChannel | None = None,
        distillation: Distillation | None = None,
        examples: types.BaseChannel = learned.transformed_examples,
    ) -> Trainer:
        copies = distillation is not None and distillation.student_layers is not None
        pretrained = None if copies and base_model else of.pretrained
        node = Trainer(
            examples=examples,
            transform_graph=learned.transform_graph,
            schema=learned.schema,
            base_model=base_model,
            run_fn=f"{_TRAINING}.run_fn",
            train_args=trainer_pb2.TrainArgs(splits=[TRAIN]),
            eval_args=trainer_pb2.EvalArgs(splits=[EVAL]),
            custom_config={
                "task": of.task.to_json(),
                "recipe": dataclasses.asdict(of.recipe),
                "model": of.model,
                "size": of.size,
                "pretrained": pretrained,
                "pretrained_fingerprint": pretrained
                and file_fingerprint(*find_checkpoint(pretrained).files),
                "distillation": distillation and dataclasses.asdict(distillation),
                "is_taught": base_model is not None and distillation is not None,
                "lowercase": of.lowercase,
                "eval_fraction": of.eval_fraction,
                "state_dir": of.state_dir,
                "training_fingerprint": source_fingerprint(*_TRAINING_ALONE, but=_EXPORT),
                "fingerprint": source_fingerprint(_TRAINING),
            },
        ).with_id(name)
        node.add_upstream_node(after)
        return node

    plan = config.distill
    if plan is None:
        if not config.warm_start:
            return [trainer(config, STUDENT)]
        # It goes on from the last model that was good enough, of other rows.
        warm_start = Resolver(
            strategy_class=LatestBlessedModelOfOtherRowsStrategy,
            model=types.Channel(type=standard_artifacts.Model),
            model_blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            candidate=learned.examples,
        ).with_id("WarmStart")
        return [warm_start, trainer(config, STUDENT, warm_start.outputs["model"])]

    # The teacher is trained first, or is the last model that was good enough.
    teacher: base_node.BaseNode
    if config.teacher is not None:
        teacher = trainer(config.teacher, TEACHER)
    else:
        teacher = Resolver(
            strategy_class=LatestBlessedTeacherStrategy,
            model=types.Channel(type=standard_artifacts.Model),
            model_blessing=types.Channel(type=standard_artifacts.ModelBlessing),
        ).with_id(TEACHER)
    nodes = [teacher]
    examples = learned.transformed_examples
    if plan.settings.learns_answers_alone:
        steps = config.recipe.max_steps
        answers = TeacherAnswers(
            transformed_examples=examples,
            transform_graph=learned.transform_graph,
            model=teacher.outputs["model"],
            answers_fn=f"{_ANSWERING}.answers_fn",
            task=config.task,
            lowercase=config.lowercase,
            rows_seen=None if steps is None else steps * config.recipe.batch_size,
        ).with_id(ANSWERS)
        answers.add_upstream_node(after)
        nodes.append(answers)
        examples = answers.outputs["examples"]
    student = trainer(config, STUDENT, teacher.outputs["model"], plan.settings, examples)
    if not plan.control:
        return [*nodes, student]
    control = config
    if plan.settings.student_layers is not None and config.teacher is not None:
        # It has of what the teacher began with what the student has of the teacher.
        control = dataclasses.replace(
            config, size=config.teacher.size, pretrained=config.teacher.pretrained
        )
    alone = trainer(control, CONTROL, distillation=plan.settings)
    # A mistake in the teacher shows first; and with the student trained, no training is unfinished.
    alone.add_upstream_node(nodes[-1])
    student.add_upstream_node(alone)
    return [*nodes, alone, student]


def _smaller_nodes(
    config: Config, learned: _Learned, training: Sequence[base_node.BaseNode]
) -> tuple[list[base_node.BaseNode], list[types.BaseChannel]]:
    """Returns what makes the model smaller, each step with its gate, and what the gates find."""
    by_name = {node.id: node for node in training}
    model = by_name[STUDENT].outputs["model"]
    head = by_name[TEACHER].outputs["model"] if config.distill else model
    nodes: list[base_node.BaseNode] = []

    def gate(
        names: tuple[str, str],
        variant: types.BaseChannel,
        before: types.BaseChannel,
        *,
        reference: types.BaseChannel | None = None,
        control: types.BaseChannel | None = None,
        **about: Any,
    ) -> types.BaseChannel:
        beside = {"before": before, "reference": reference, "control": control}
        predictor = Predictor(
            examples=learned.examples,
            data_report=learned.data_report,
            models={CANDIDATE: variant, **beside},
        ).with_id(names[0])
        node = VariantGate(
            predictions=predictor.outputs["predictions"],
            variant=variant,
            **beside,
            task=config.task,
            head="teacher" if config.distill else "trained",
            slice_columns=config.slice_columns,
            timeout=config.serving.serving_timeout,
            tolerance=config.serving.serving_tolerance,
            **about,
        ).with_id(names[1])
        nodes.extend((predictor, node))
        return node.outputs["model"]

    if config.distill is not None:
        control = by_name.get(CONTROL)
        model = gate(
            ("StudentAnswers", "StudentGate"),
            model,
            head,
            control=control.outputs["model"] if control else None,
            step="student",
            settings=dataclasses.asdict(config.distill.settings),
            limits=config.distill.limits,
            goes_back=False,
        )
    for number, step in enumerate(config.compress, start=1):
        compressor = Compressor(
            examples=learned.examples,
            model=model,
            compress_fn=f"{_COMPRESSING}.compress_fn",
            task=config.task,
            settings=dataclasses.asdict(step.settings),
            eval_fraction=config.eval_fraction,
        ).with_id(f"Compress{number}")
        nodes.append(compressor)
        model = gate(
            (f"CompressAnswers{number}", f"CompressGate{number}"),
            compressor.outputs["smaller_model"],
            model,
            reference=None if model is head else head,
            step=step.name,
            settings=dataclasses.asdict(step.settings),
            limits=step.limits,
            goes_back=True,
        )
    gates = [node for node in nodes if isinstance(node, VariantGate)]
    return nodes, [node.outputs["findings"] for node in gates]


def _variant_inputs(
    config: Config, training: Sequence[base_node.BaseNode], findings: Sequence[types.BaseChannel]
) -> dict[str, types.BaseChannel]:
    """Returns what a report tells of smaller models from; 0 is the student's place."""
    first = 0 if config.distill else 1
    inputs = {f"variant_findings_{n}": found for n, found in enumerate(findings, start=first)}
    if config.teacher is not None:
        inputs["teacher_run"] = training[0].outputs["model_run"]
    return inputs


def _give_workers(config: Config, nodes: Sequence[base_node.BaseNode]) -> None:
    """Gives nodes their workers; refuses resources that no node would ever take."""
    by_name = {node.id: node for node in nodes}
    beam = [node.id for node in nodes if isinstance(node, base_beam_component.BaseBeamComponent)]
    for name, given in config.resources.items():
        if name not in by_name:
            raise InputError(
                f"resources: there is no node {name!r}; the nodes are {', '.join(by_name)}"
            )
        if given.workers is None:
            continue
        if name not in beam:
            raise InputError(
                f"resources, {name}: workers are for nodes with a Beam pipeline on the engine, "
                f"which are {', '.join(beam)}"
            )
        by_name[name].with_beam_pipeline_args(config.beam.worker_arguments(given.workers))


def _accepted(statistics: types.BaseChannel, report: type[types.Artifact]) -> Resolver:
    """Finds the statistics that a gate accepted last, by its reports, other than these."""
    return Resolver(
        strategy_class=LatestOtherAcceptedStatisticsStrategy,
        statistics=types.Channel(type=standard_artifacts.ExampleStatistics),
        report=types.Channel(type=report),
        candidate=statistics,
    )
