"""The set-up chooses the stack and the interpreter, says why, and heals what was cut short.

The script runs on a PATH that holds nothing but stand-ins: interpreters that say which release they
are, a uv that keeps what it was asked, a C library of the wished release.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "requirements" / "set-up"
LOCKS = ("run", "dev", "kubeflow", "jax")
TOOLS = (
    *("bash", "cat", "chmod", "cmp", "cp", "cut", "dirname", "env", "flock", "grep", "head", "ln"),
    *("mkdir", "paste", "rm", "sed", "sha256sum", "sort", "touch", "uniq"),
)

# Does what the script needs of uv. UV_ANSWER is what `uv python install` comes to.
UV = """
    echo "$*" >>"$PROJECT/asked"
    case "$1 ${2:-}" in
      "--version "*) echo "uv $UV_VERSION" ;;
      "venv "*)
        for folder; do :; done
        mkdir -p "$folder/bin"
        while [ "$1" != --python ]; do shift; done
        cp "$2" "$folder/bin/python"
        ;;
      "python install")
        [ "$UV_PYTHON_DOWNLOADS" = manual ] || { echo "error: it is forbidden" >&2; exit 1; }
        [ "$UV_ANSWER" = installed ] && exit
        printf 'error: Failed to install\\n  cause: in vain\\n  cause: %s\\n' "$UV_ANSWER" >&2
        exit 1
        ;;
      "python find") echo "$PROJECT/standalone" ;;
      "pip sync") [ "$UV_ANSWER" != cut ] ;;
    esac
"""


class Machine:
    """A checkout on a machine that is made up."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.project = folder / "project"
        self.path = folder / "path"
        self.path.mkdir()
        (self.project / "requirements").mkdir(parents=True)
        shutil.copy(SCRIPT, self.project / "requirements")
        for name in ("setup.py", "pyproject.toml"):
            (self.project / name).touch()
        for stack in ("modern", "classic"):
            (self.project / "requirements" / stack).mkdir()
            for lock in LOCKS:
                (self.project / "requirements" / stack / f"{lock}.txt").write_text("a==1\nb==2\n")
        for lock in ("airflow", "reference", "uv"):
            (self.project / "requirements" / f"{lock}.txt").write_text("uv==1\n")
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"{tool} is missing on this machine"
            (self.path / tool).symlink_to(found)
        self.environment = {
            "PATH": str(self.path),
            "PROJECT": str(self.project),
            "UV_ANSWER": "installed",
            "UV_VERSION": "0.13.9",
        }
        self.program("uv", UV)
        self.glibc("2.41")
        self.machine("Linux x86_64")

    def program(self, name: str, text: str, folder: pathlib.Path | None = None) -> str:
        path = (folder or self.path) / name
        path.write_text(f"#!{self.path}/bash\n{textwrap.dedent(text)}")
        path.chmod(0o755)
        return str(path)

    def glibc(self, release: str) -> None:
        self.program("getconf", f'[ "$1" = GNU_LIBC_VERSION ] && echo "glibc {release}"')

    def machine(self, name: str) -> None:
        self.program("uname", f"echo {name}")

    def python(
        self,
        release: str,
        name: str | None = None,
        folder: pathlib.Path | None = None,
        *,
        headers: bool = True,
        modules: tuple[str, ...] = (),
    ) -> str:
        """An interpreter that takes itself for another release; pip and venv are those named."""
        where = folder or self.path
        major, minor = release.split(".")
        include = where / f"include{release}"
        include.mkdir(exist_ok=True)
        if headers:
            (include / "Python.h").touch()
        missing = {"pip", "ensurepip"} - set(modules)
        code = (
            "import platform, shlex, shutil, sys, sysconfig;"
            f"sys.version_info = ({major}, {minor}, 5, 'final', 0);"
            f"platform.python_version = lambda: '{release}.5';"
            "sys.executable, code = sys.argv[1:3];"
            f"sys.base_prefix = '/home/of/{release}';"
            f"sysconfig.get_paths = lambda: {{'include': '{include}'}};"
            "sysconfig.get_config_var = lambda name: 'c++ -x';"
            f"sys.modules.update(dict.fromkeys({sorted(missing)!r}));"
            f"sys.modules.update(dict.fromkeys({modules!r}, sys));"
            "exec(code)"
        )
        return self.program(
            name or f"python{release}",
            f"""
            [ "$1" = -c ] || {{ echo "$*" >>"$PROJECT/asked"; exit 1; }}
            exec {sys.executable} -S -c "{code}" "$0" "$2"
            """,
            folder,
        )

    def set_up(self, purpose: str = "run", **environment: str) -> subprocess.CompletedProcess:
        asked = self.project / "asked"
        asked.unlink(missing_ok=True)
        done = subprocess.run(
            [self.project / "requirements" / "set-up", purpose],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        done.asked = asked.read_text().splitlines() if asked.exists() else []
        return done

    def synced(self, done: subprocess.CompletedProcess) -> list[str]:
        """The lock files that were installed, each with its environment."""
        assert done.returncode == 0, done.stderr
        words = [line.split() for line in done.asked if line.startswith("pip sync")]
        return [f"{w[-1]} {w[w.index('--python') + 1].split('/')[0]}" for w in words]

    def nothing_made(self) -> bool:
        return not list(self.project.glob(".venv*"))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def refused(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("glibc", "releases", "stack", "said"),
    [
        (
            "2.41",
            ["3.10", "3.12", "3.13"],
            "modern",
            "as glibc is 2.41; Python 3.13.5 at {path}/python3.13",
        ),
        (
            "2.39",
            ["3.10", "3.12"],
            "modern",
            "as glibc is 2.39; Python 3.12.5 at {path}/python3.12",
        ),
        (
            *("2.36", ["3.10", "3.12", "3.13"], "classic"),
            "older than the 2.39 that TFX 1.21 needs; Python 3.10.5 at {path}/python3.10",
        ),
    ],
)
def test_newest_stack_that_the_machine_runs(machine, glibc, releases, stack, said):
    machine.glibc(glibc)
    machine.program("c++", "")
    for release in releases:
        machine.python(release)
    done = machine.set_up()
    assert machine.synced(done) == [f"requirements/{stack}/run.txt .venv"]
    assert said.format(path=machine.path) in done.stdout.splitlines()[0]
    assert len(done.stdout.splitlines()) == 3, "it is chosen in one line, installed in two"
    assert (machine.project / ".venv" / "stack").read_text() == f"{stack}\n"


def test_stack_and_interpreter_can_be_named(machine, tmp_path):
    machine.program("c++", "")
    for release in ("3.10", "3.13"):
        machine.python(release)
    done = machine.set_up(STACK="classic")
    assert machine.synced(done) == ["requirements/classic/run.txt .venv"]
    assert "as STACK=classic asks for it; Python 3.10.5" in done.stdout

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = machine.set_up(PYTHON=machine.python("3.12", "python", elsewhere))
    assert machine.synced(done) == ["requirements/modern/run.txt .venv"]
    assert f"Python 3.12.5 at {elsewhere}/python" in done.stdout

    done = machine.set_up(PYTHON=machine.python("3.10", "other", elsewhere))
    assert machine.synced(done) == ["requirements/classic/run.txt .venv"]
    assert "as PYTHON is Python 3.10" in done.stdout


@pytest.mark.parametrize(
    ("glibc", "asked", "said"),
    [
        ("2.36", {"STACK": "modern"}, "STACK=modern cannot be: glibc 2.36 is older than the 2.39"),
        ("2.41", {"STACK": "newest"}, "STACK is 'newest'; expected modern or classic"),
        (
            "2.36",
            {"PYTHON": "python3.13"},
            "Python 3.13; the stack classic (TFX 1.16) runs on 3.10",
        ),
        (
            "2.41",
            {"PYTHON": "python3.11"},
            "Python 3.11; the stack modern (TFX 1.21) runs on 3.13",
        ),
        (
            "2.41",
            {"PYTHON": "python3.13", "STACK": "classic"},
            "chosen as STACK=classic asks",
        ),
        ("2.41", {"PYTHON": "python3.10", "STACK": "modern"}, "STACK=modern cannot be: PYTHON is"),
        ("2.41", {"PYTHON": "python9"}, "PYTHON=python9 does not run: python9: command not found"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(machine, glibc, asked, said):
    machine.glibc(glibc)
    for release in ("3.10", "3.11", "3.13"):
        machine.python(release)
    assert said in refused(machine.set_up(**asked))
    assert machine.nothing_made()


def test_other_systems_are_refused(machine):
    machine.python("3.13")
    machine.machine("Linux aarch64")
    assert "wheels for Linux on x86-64 only; this is Linux aarch64" in refused(machine.set_up())
    machine.machine("Linux x86_64")
    machine.program("getconf", "exit 1")
    assert "another C library" in refused(machine.set_up())
    assert machine.nothing_made()


def test_uv_installs_an_interpreter_where_there_is_none(machine):
    machine.python("3.11")
    machine.python("3.13", "standalone", machine.project)
    done = machine.set_up()
    assert machine.synced(done) == ["requirements/modern/run.txt .venv"]
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("set-up: there is no python3.13 and no python3.12 on PATH; uv")
    assert f"Python 3.13.5 at {machine.project}/standalone" in second
    assert "python install --no-bin 3.13" in done.asked


def test_no_interpreter_and_no_network(machine):
    done = machine.set_up(UV_ANSWER="dns error")
    lines = refused(done).splitlines()
    assert lines[0] == "set-up: Failed to install: dns error"
    assert any("apt install python3.13" in line for line in lines)
    assert lines[-1].strip() == "make run PYTHON=/path/to/python3.13"
    assert machine.nothing_made()


def test_no_interpreter_is_downloaded_where_that_is_forbidden(machine):
    done = machine.set_up(UV_PYTHON_DOWNLOADS="never")
    assert "set-up: it is forbidden" in refused(done)


@pytest.mark.parametrize("compiler", [True, False])
@pytest.mark.parametrize("headers", [True, False])
def test_classic_needs_a_compiler_and_headers(machine, compiler, headers):
    machine.glibc("2.36")
    machine.python("3.10", headers=headers)
    machine.python("3.10", "standalone", machine.project)
    if compiler:
        machine.program("c++", "")
    done = machine.set_up()
    if compiler and headers:
        assert "standalone" not in done.stdout
    elif compiler:
        assert "lacks the headers of Python (apt install python3.10-dev); uv" in done.stdout
        assert f"Python 3.10.5 at {machine.project}/standalone" in done.stdout
    else:
        # A standalone Python brings its headers along, and no compiler.
        assert "lacks a C++ compiler (apt install g++" in refused(done)
        assert machine.nothing_made()


def test_second_set_up_does_nothing(machine):
    machine.python("3.13")
    machine.set_up()
    again = machine.set_up()
    assert (again.returncode, again.stdout, again.stderr, again.asked) == (0, "", "", [])
    # A checkout renews the times of files, and changes nothing.
    os.utime(machine.project / "setup.py", (1, 1))
    assert machine.set_up().asked == []


def test_changed_lock_is_installed_into_the_same_environment(machine):
    machine.python("3.13")
    machine.set_up()
    (machine.project / ".venv" / "kept").touch()
    (machine.project / "requirements" / "modern" / "run.txt").write_text("a==2\n")
    done = machine.set_up()
    assert machine.synced(done) == ["requirements/modern/run.txt .venv"]
    assert (machine.project / ".venv" / "kept").exists()


def test_development_tools_come_beside_what_runs(machine):
    machine.python("3.13")
    machine.set_up()
    assert machine.synced(machine.set_up("dev")) == ["requirements/modern/dev.txt .venv"]
    assert machine.set_up("run").asked == machine.set_up("dev").asked == []


@pytest.mark.parametrize("fault", ["cut short", "no interpreter", "of another make"])
def test_environment_that_is_not_whole_is_made_anew(machine, fault):
    machine.python("3.13")
    if fault == "cut short":
        assert machine.set_up(UV_ANSWER="cut").returncode != 0
    else:
        machine.set_up()
    (machine.project / ".venv" / "left").touch()
    if fault == "no interpreter":
        (machine.project / ".venv" / "bin" / "python").unlink()
    elif fault == "of another make":
        (machine.project / ".venv" / "stack").unlink()
    done = machine.set_up()
    assert machine.synced(done) == ["requirements/modern/run.txt .venv"]
    assert "it is made anew" in done.stdout
    assert not (machine.project / ".venv" / "left").exists()


def test_named_stack_stays_until_another_is_named(machine):
    machine.program("c++", "")
    machine.python("3.10")
    machine.python("3.13")
    machine.set_up(STACK="classic")
    assert machine.set_up().asked == []
    assert machine.synced(machine.set_up(STACK="modern")) == ["requirements/modern/run.txt .venv"]


@pytest.mark.parametrize(
    ("purpose", "lock"),
    [("jax", "modern/jax"), ("kubeflow", "modern/kubeflow"), ("airflow", "airflow")],
)
def test_environments_of_their_own(machine, purpose, lock):
    machine.python("3.13")
    done = machine.set_up(purpose)
    assert machine.synced(done) == [f"requirements/{lock}.txt .venv-{purpose}"]
    assert machine.set_up(purpose).asked == []
    assert not (machine.project / ".venv").exists()


def test_environments_beside_it_are_of_its_stack(machine):
    machine.program("c++", "")
    machine.python("3.10")
    machine.python("3.13")
    machine.set_up(STACK="classic")
    assert machine.synced(machine.set_up("jax")) == ["requirements/classic/jax.txt .venv-jax"]


def test_reference_has_an_interpreter_of_its_own(machine):
    machine.python("3.13")
    machine.python("3.11")
    done = machine.set_up("reference")
    assert machine.synced(done) == ["requirements/reference.txt .venv-reference"]
    assert not any(line.startswith("pip install") for line in done.asked)
    assert machine.set_up("reference").asked == []
    assert not (machine.project / ".venv").exists()


def test_uv_comes_from_pypi_by_the_python_that_is_there(machine):
    (machine.path / "uv").unlink()
    machine.python("3.13")
    told = refused(machine.set_up())
    assert "no Python 3 with pip or venv" in told and "apt install python3-venv" in told

    machine.python("3.14", "python3", modules=("pip",))
    done = machine.set_up()
    assert "uv could not be installed from PyPI" in refused(done)
    assert done.asked == [
        "-m pip install --quiet --target .uv --require-hashes -r requirements/uv.txt"
    ]

    machine.python("3.14", "python3", modules=("ensurepip",))
    assert machine.set_up().asked == ["-m venv .uv"]
    assert machine.nothing_made()


def test_old_uv_on_path_is_passed_by(machine):
    machine.python("3.13")
    assert "no Python 3 with pip or venv" in refused(machine.set_up(UV_VERSION="0.2.37"))


def test_unknown_purpose_shows_the_usage(machine):
    done = machine.set_up("everything")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: requirements/set-up run|dev|")
