import dataclasses
import importlib.metadata
import socket
import subprocess
import sys

import pytest

from bert_tfx.pipeline.configuration.beam_engine import BEAM_RUNNERS, BEAM_SETTINGS, BeamEngine
from bert_tfx.pipeline.configuration.config import make_config
from bert_tfx.schema.errors import InputError

POOL = {"beam_environment": "external=localhost:50000"}
NEEDED = {
    "in_memory": {},
    "multi_processing": {},
    "portable": {"beam_job_endpoint": "localhost:8099", **POOL},
    "flink": {"beam_master": "http://flink:8081", "beam_job_server_jar": "flink.jar", **POOL},
    "spark": {"beam_master": "spark://spark:7077", "beam_job_server_jar": "spark.jar", **POOL},
}
# A value of each setting that fits.
VALUES = {
    "beam_workers": 4,
    "beam_job_timeout": 600,
    **NEEDED["portable"],
    **NEEDED["flink"],
}


def engine(runner, **settings):
    return BeamEngine(beam_runner=runner, **NEEDED[runner], **settings)


def options(flags, kind):
    """What Beam itself understands by flags."""
    from apache_beam.options import pipeline_options

    return pipeline_options.PipelineOptions(flags).view_as(getattr(pipeline_options, kind))


def test_all_settings_are_known_here():
    names = {field.name for field in dataclasses.fields(BeamEngine)}
    assert names == {"beam_runner", *BEAM_SETTINGS}
    assert set(BEAM_SETTINGS) == VALUES.keys()
    assert NEEDED.keys() == set(BEAM_RUNNERS)


@pytest.mark.parametrize("runner", BEAM_RUNNERS)
def test_a_setting_of_another_engine_is_refused_by_name(runner):
    taken = {}
    for name in BEAM_SETTINGS:
        try:
            taken[name] = BeamEngine(runner, **{**NEEDED[runner], name: VALUES[name]})
        except InputError as error:
            option = name.replace("_", "-")
            assert f"--{option} is for --beam-runner " in str(error)
            assert str(error).endswith(f", not for {runner}")
    assert NEEDED[runner].keys() <= taken.keys()
    # What is taken reaches Beam.
    for name, made in taken.items():
        if name != "beam_environment":
            assert any(flag.endswith(f"={VALUES[name]}") for flag in made.arguments())


@pytest.mark.parametrize(
    ("runner", "name"), [(runner, name) for runner, needed in NEEDED.items() for name in needed]
)
def test_a_setting_that_is_missing_is_named_with_what_it_is(runner, name):
    settings = {key: value for key, value in NEEDED[runner].items() if key != name}
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(InputError, match=rf"^{option} is missing: with --beam-runner {runner} it "):
        BeamEngine(runner, **settings)


@pytest.mark.parametrize(
    ("runner", "settings", "message"),
    [
        ("prism", {}, r"^beam_runner must be one of in_memory, "),
        ("multi_processing", {"beam_workers": 0}, r"^--beam-workers must be 1 or more"),
        ("portable", {"beam_job_timeout": 0}, r"^--beam-job-timeout must be 1 or more"),
        ("portable", {"beam_job_endpoint": "localhost"}, r"^--beam-job-endpoint must be HOST:PORT"),
        *(
            ("portable", {"beam_environment": value}, r"^--beam-environment must be loopback, ex")
            for value in ("", "kubernetes", "external", "external=pool", "docker=", "loopback=x")
        ),
    ],
)
def test_malformed_settings_are_refused(runner, settings, message):
    with pytest.raises(InputError, match=message):
        BeamEngine(runner, **{**NEEDED.get(runner, {}), **settings})


@pytest.mark.parametrize(
    ("runner", "name"),
    [
        ("in_memory", "FnApiRunner"),
        ("multi_processing", "FnApiRunner"),
        ("portable", "PortableRunner"),
        ("flink", "FlinkRunner"),
        ("spark", "SparkRunner"),
    ],
)
def test_beam_knows_the_runner_and_tfx_finds_a_package(runner, name):
    from apache_beam.runners.runner import create_runner
    from tfx.utils.dependency_utils import make_beam_dependency_flags

    flags = engine(runner).arguments()
    assert options(flags, "StandardOptions").runner == name
    assert type(create_runner(name)).__name__ == name
    # Else it would build one.
    assert make_beam_dependency_flags(flags) == flags


def test_workers_on_this_machine():
    direct = options(engine("in_memory").arguments(), "DirectOptions")
    assert (direct.direct_running_mode, direct.direct_num_workers) == ("in_memory", 1)
    direct = options(engine("multi_processing").arguments(), "DirectOptions")
    assert (direct.direct_running_mode, direct.direct_num_workers) == ("multi_processing", 0)


COUNT = """
from bert_tfx.pipeline.configuration.beam_engine import BeamEngine
from bert_tfx.pipeline.process.console import quiet_workers, quieten

def counted(number):
    import tensorflow as tf
    return number + int(tf.constant(1))

if __name__ == "__main__":
    quieten(verbose=False)
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.testing.util import assert_that, equal_to

    flags = [*BeamEngine("multi_processing").arguments(), "--direct_num_workers=2"]
    with (
        quiet_workers("multi_processing", verbose=False),
        beam.Pipeline(options=PipelineOptions(flags)) as pipeline,
    ):
        counts = pipeline | beam.Create([1, 2, 3, 4]) | beam.Reshuffle() | beam.Map(counted)
        assert_that(counts, equal_to([2, 3, 4, 5]))
"""


@pytest.mark.slow
def test_worker_processes_are_as_quiet_as_the_command(tmp_path):
    (tmp_path / "count.py").write_text(COUNT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "count.py")], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("runner", "kind", "name"),
    [
        ("multi_processing", "DirectOptions", "direct_num_workers"),
        ("portable", "FlinkRunnerOptions", "parallelism"),
        ("flink", "FlinkRunnerOptions", "parallelism"),
        ("spark", "PortableOptions", "sdk_worker_parallelism"),
    ],
)
def test_workers_of_a_node_go_before_those_of_all(runner, kind, name):
    made = engine(runner, beam_workers=4)
    assert int(getattr(options(made.arguments(), kind), name)) == 4
    assert int(getattr(options(made.arguments() + made.worker_arguments(2), kind), name)) == 2


def test_in_memory_has_one_worker():
    with pytest.raises(InputError, match=r"^workers cannot be chosen with --beam-runner in_memory"):
        engine("in_memory").worker_arguments(2)


@pytest.mark.parametrize(
    ("value", "kind", "config"),
    [
        ("loopback", "LOOPBACK", None),
        ("external=pool:50000", "EXTERNAL", "pool:50000"),
        ("docker=registry/bert-tfx:1", "DOCKER", "registry/bert-tfx:1"),
        ("process=/opt/apache/beam/boot", "PROCESS", '{"command": "/opt/apache/beam/boot"}'),
    ],
)
def test_environment_of_the_workers(value, kind, config):
    from apache_beam.transforms.environments import Environment

    settings = {**NEEDED["portable"], "beam_environment": value}
    portable = options(BeamEngine("portable", **settings).arguments(), "PortableOptions")
    assert (portable.environment_type, portable.environment_config) == (kind, config)
    urn, payload = Environment.from_options(portable).to_runner_api_parameter(None)
    assert kind.lower() in urn
    assert config is None or config.removeprefix('{"command": "').removesuffix('"}') in str(payload)


def test_a_job_may_take_longer_than_beams_five_minutes():
    portable = options(engine("portable").arguments(), "PortableOptions")
    assert portable.job_server_timeout == 60 * 60
    portable = options(engine("portable", beam_job_timeout=9).arguments(), "PortableOptions")
    assert portable.job_server_timeout == 9


# What this machine must have.


@pytest.mark.parametrize(("runner", "artifact"), [("flink", "-flink-"), ("spark", "-spark-3-")])
def test_missing_job_server_is_told_with_where_to_get_it(monkeypatch, tmp_path, runner, artifact):
    version = importlib.metadata.version("apache-beam")
    coordinates = rf"org\.apache\.beam:beam-runners{artifact}.*job-server:{version}.* Maven Central"
    with pytest.raises(InputError, match=rf"^--beam-job-server-jar is missing.*{coordinates}"):
        BeamEngine(runner, beam_master="[local]", **POOL)
    jar = tmp_path / "job-server.jar"
    made = dataclasses.replace(engine(runner), beam_job_server_jar=str(jar))
    with pytest.raises(InputError, match=rf"^{jar}: no such file; .*{coordinates}"):
        made.check_here()
    jar.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=rf"^--beam-runner {runner} .* no java on PATH"):
        made.check_here()
    (tmp_path / "java").touch(mode=0o755)
    made.check_here()


def test_job_service_that_is_not_there_is_told_at_once():
    with socket.create_server(("localhost", 0)) as server:
        endpoint = f"localhost:{server.getsockname()[1]}"
        made = dataclasses.replace(engine("portable"), beam_job_endpoint=endpoint)
        made.check_here()
    with pytest.raises(InputError, match=rf"^{endpoint}: no job service answers there \("):
        made.check_here()


@pytest.mark.parametrize("runner", ["in_memory", "multi_processing"])
def test_others_need_nothing_more(runner):
    engine(runner).check_here()


@pytest.fixture
def made(vocab_file, glue_dir, tmp_path):
    """Makes the pipeline of a configuration; returns the flags of each Beam node."""
    from tfx.dsl.components.base.executor_spec import BeamExecutorSpec

    from bert_tfx.pipeline.pipeline import create_pipeline

    def made(**options):
        config = make_config(
            {"task": "sst2", "data": str(glue_dir), "output": str(tmp_path), **options}
            | {"vocab": str(vocab_file)}
        )
        return {
            node.id: node.executor_spec.beam_pipeline_args
            for node in create_pipeline(config).components
            if isinstance(getattr(node, "executor_spec", None), BeamExecutorSpec)
        }

    return made


def test_nodes_have_the_flags_of_the_engine_and_their_own_workers(made):
    nodes = made(
        beam_runner="multi_processing",
        beam_workers=2,
        resources={"Transform": {"workers": 3}, "TokenStatistics": {"workers": 1}},
    )
    assert nodes.keys() == {
        *("TsvExampleGen", "StatisticsGen", "DataGate", "Transform", "TokenStatistics"),
        *("Predictor", "Evaluator"),
    }
    workers = {
        name: options(flags, "DirectOptions").direct_num_workers for name, flags in nodes.items()
    }
    own = {"Transform": 3, "TokenStatistics": 1}
    assert workers == dict.fromkeys(nodes, 2) | own
